#!/usr/bin/env bash
# Builds the packages into target/packages: a .deb and a .rpm for each architecture. Nothing of the machine, the folder or the
# time of the build gets into them, so that the same sources and compiler give the same bytes.
#
#   build.sh [ARCH...]     amd64 (the default on such a machine) and arm64, the latter cross-built with Debian's compiler
#
# Environment: MAINTAINER is who answers for the packages; VERSION overrides Cargo.toml's (for tests of upgrades); BINARY is a
# program that is built already, for one architecture; SOURCE_DATE_EPOCH is the time stamped on everything (by default that
# of the last commit).
source "$(dirname "$0")/../tests/env/lib.sh"
cd "$top"

version=${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)}
release=1
maintainer=${MAINTAINER:-The Garrison project <garrison@example.org>}
out=$target/packages
work=$out/work
# shellcheck disable=SC2030,SC2031
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)}
export TZ=UTC LC_ALL=C.UTF-8

triple_of() { # ARCH
  case $1 in
    amd64) echo x86_64-unknown-linux-gnu ;;
    arm64) echo aarch64-unknown-linux-gnu ;;
    *) die "unknown architecture $1: amd64 and arm64 are built" ;;
  esac
}

rpm_arch_of() { # ARCH
  case $1 in amd64) echo x86_64 ;; arm64) echo aarch64 ;; esac
}

# What the paths of this machine would leave in the program: they are no part of the source.
remap() {
  local cargo_home=${CARGO_HOME:-$HOME/.cargo}
  # The last that fits counts: what is generated lies in the target directory, which may be anywhere.
  echo "--remap-path-prefix=$cargo_home/registry/src=/cargo --remap-path-prefix=$top=/garrison --remap-path-prefix=$target=/garrison/target"
}

# Prints the path of the program for ARCH, stripped, with link-time optimization.
build_binary() { # ARCH
  local triple
  if [[ -n ${BINARY:-} ]]; then
    echo "$BINARY"
    return
  fi
  triple=$(triple_of "$1")
  if [[ $triple == "$(rustc -vV | sed -n 's/^host: //p')" ]]; then
    RUSTFLAGS="$(remap)" cargo build --locked --profile dist --bin garrison >&2
    echo "$target/dist/garrison"
    return
  fi
  have aarch64-linux-gnu-gcc || die "arm64 takes the packages gcc-aarch64-linux-gnu and libc6-dev-arm64-cross"
  [[ -d $(rustc --print sysroot)/lib/rustlib/$triple ]] || die "arm64 takes Rust's library for it: rustup target add $triple"
  CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc RUSTFLAGS="$(remap)" \
    cargo build --locked --profile dist --bin garrison --target "$triple" >&2
  echo "$target/$triple/dist/garrison"
}

# Man pages and completions: the same for each architecture.
build_manual() {
  rm -rf "$work/manual"
  cargo run --locked -q --example manual -- "$work/manual/man" "$work/manual/completions" >&2
}

# What looks at a host before anything of the package gets there: the same for both kinds.
build_preinst() {
  local format
  format=$(sed -n 's/^const FORMAT: u32 = \([0-9]*\);$/\1/p' src/host/ledger.rs)
  [[ -n $format ]] || die "src/host/ledger.rs does not say which format of ledgers it reads"
  sed "s/@LEDGER_FORMAT@/$format/" packaging/deb/preinst >"$work/preinst"
}

# Everything that goes onto a host, but for what only one kind of package has.
stage() { # ARCH BINARY ROOT
  local root=$3 page doc
  install -Dm 755 "$2" "$root/usr/bin/garrison"
  for unit in agent control images; do
    install -Dm 644 "systemd/garrison-$unit.service" "$root/usr/lib/systemd/system/garrison-$unit.service"
  done
  install -Dm 644 systemd/garrison.sysusers "$root/usr/lib/sysusers.d/garrison.conf"
  for file in agent.yaml control.yaml garrison.env; do install -Dm 644 "packaging/etc/$file" "$root/etc/garrison/$file"; done
  install -dm 755 "$root/etc/garrison/agent.d" "$root/etc/garrison/control.d" "$root/etc/garrison/labels.d" \
    "$root/etc/garrison/manifests"
  for page in "$work"/manual/man/*.1; do
    install -Dm 644 "$page" "$root/usr/share/man/man1/$(basename "$page")"
  done
  gzip -9n "$root"/usr/share/man/man1/*.1
  install -Dm 644 "$work/manual/completions/garrison.bash" "$root/usr/share/bash-completion/completions/garrison"
  install -Dm 644 "$work/manual/completions/garrison.fish" "$root/usr/share/fish/vendor_completions.d/garrison.fish"
  install -Dm 644 "$work/manual/completions/_garrison" "$root/usr/share/zsh/vendor-completions/_garrison"
  for doc in README.md ARCHITECTURE.md docs/*.md; do
    install -Dm 644 "$doc" "$root/usr/share/doc/garrison/$(basename "$doc")"
  done
  for doc in examples/*.yaml packaging/examples/*; do
    install -Dm 644 "$doc" "$root/usr/share/doc/garrison/examples/$(basename "$doc")"
  done
}

# --- deb

# The oldest C library the program works with, by the symbols it asks for.
glibc_of() { # BINARY
  local objdump=objdump
  [[ $(file -b "$1") != *aarch64* ]] || objdump=aarch64-linux-gnu-objdump
  "$objdump" -T "$1" | grep -o 'GLIBC_[0-9.]*' | sed 's/GLIBC_//' | sort -Vu | tail -n 1
}

deb_changelog() {
  printf 'garrison (%s-%s) stable; urgency=medium\n\n  * See changelog.gz for what changed in this version.\n\n' "$version" "$release"
  printf ' -- %s  %s\n' "$maintainer" "$(date -R -d "@$SOURCE_DATE_EPOCH")"
}

build_deb() { # ARCH BINARY
  local root=$work/deb-$1 doc size
  rm -rf "$root"
  stage "$1" "$2" "$root"
  doc=$root/usr/share/doc/garrison
  install -Dm 644 packaging/deb/copyright "$doc/copyright"
  gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
  deb_changelog | gzip -9nc >"$doc/changelog.Debian.gz"
  # What is long is packed, as Debian has it.
  find "$doc" -maxdepth 1 -name '*.md' -size +4k -exec gzip -9n {} +
  install -Dm 644 packaging/deb/lintian-overrides "$root/usr/share/lintian/overrides/garrison"

  install -dm 755 "$root/DEBIAN"
  size=$(du -k --apparent-size -s "$root" | cut -f1)
  sed -e "s/@VERSION@/$version-$release/" -e "s/@ARCH@/$1/" -e "s/@SIZE@/$size/" -e "s/@GLIBC@/$(glibc_of "$2")/" \
    -e "s/@MAINTAINER@/$maintainer/" \
    packaging/deb/control >"$root/DEBIAN/control"
  (cd "$root" && find etc -type f | sort | sed 's|^|/|') >"$root/DEBIAN/conffiles"
  install -m 755 "$work/preinst" "$root/DEBIAN/preinst"
  for script in postinst prerm postrm; do install -m 755 "packaging/deb/$script" "$root/DEBIAN/$script"; done
  (cd "$root" && find usr -type f | sort | xargs md5sum) >"$root/DEBIAN/md5sums"
  chmod 644 "$root/DEBIAN"/{control,conffiles,md5sums}
  find "$root" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
  dpkg-deb --root-owner-group -Zxz --build "$root" "$out/garrison_$version-${release}_$1.deb" >&2
}

# --- rpm

build_rpm() { # ARCH BINARY
  local root=$work/rpm-$1 top_dir=$work/rpmbuild-$1 rpm_arch
  rpm_arch=$(rpm_arch_of "$1")
  rm -rf "$root" "$top_dir"
  stage "$1" "$2" "$root"
  install -Dm 644 LICENSE "$root/usr/share/licenses/garrison/LICENSE"
  install -Dm 644 CHANGELOG.md "$root/usr/share/doc/garrison/CHANGELOG.md"
  # As Fedora and its kin have it.
  mkdir -p "$root/usr/share/zsh/site-functions"
  mv "$root/usr/share/zsh/vendor-completions/_garrison" "$root/usr/share/zsh/site-functions/"
  rmdir "$root/usr/share/zsh/vendor-completions"
  find "$root" -exec touch -hd "@$SOURCE_DATE_EPOCH" {} +
  # A version of rpm has no hyphen.
  rpmbuild -bb --quiet --target "$rpm_arch-linux" --define "_topdir $top_dir" --define "garrison_version ${version//-/\~}" \
    --define "garrison_release $release" --define "garrison_maintainer $maintainer" --define "garrison_stage $root" \
    --define "garrison_preinst $work/preinst" \
    --define "garrison_date $(date -d "@$SOURCE_DATE_EPOCH" '+%a %b %d %Y')" packaging/rpm/garrison.spec >&2
  cp "$top_dir/RPMS/$rpm_arch"/*.rpm "$out/"
}

main() {
  local arch binary
  (($#)) || set -- "$(dpkg --print-architecture)"
  mkdir -p "$work"
  build_manual
  build_preinst
  for arch; do
    binary=$(build_binary "$arch")
    build_deb "$arch" "$binary"
    build_rpm "$arch" "$binary"
  done
  rm -rf "$work"
  (cd "$out" && sha256sum -- *.deb *.rpm >SHA256SUMS && ls -l -- *.deb *.rpm >&2)
}

main "$@"
