#!/usr/bin/env bash
# Builds the images of the demo and the tests from Debian packages and the files in images/, and leaves them in
# target/images/registry as the storage of a docker-registry, from which any number of registries can serve them. Does nothing
# when they are there. Needs no root.
#
#   docker.io/library/busybox:1.35            Debian's static busybox: the tests' general image
#   docker.io/prom/node-exporter:latest       the real exporter, from Debian
#   docker.io/library/fluentd:v1.16           a stand-in that says so
#   docker.io/nvidia/dcgm-exporter:latest     a stand-in that says so
#   registry.k8s.io/pause:3.6                 the sandbox container
#   whatever tests/data/corpus names          a stand-in that waits
source "$(dirname "$0")/lib.sh"
source "$env_dir/runtime.sh"

arch=$(dpkg --print-architecture)
work=$images.new

# Unpacks a package without installing it: installing docker-registry or prometheus-node-exporter would add a service to the
# machine, and busybox-static would replace the machine's busybox.
unpack() { # PACKAGE
  local package=$1 deb=("$work"/"$1"_*.deb)
  [[ -e ${deb[0]} ]] || (cd "$work" && apt-get -q -o APT::Sandbox::User=root download "$package" >&2)
  dpkg-deb -x "$work"/"$package"_*.deb "$work/$package"
}

fetch_packages() {
  local packages=(busybox-static docker-registry prometheus-node-exporter) package
  say "images: downloading ${packages[*]}"
  for package in "${packages[@]}"; do
    # Package lists are absent on a new machine and stale on an old one; both show as a failing download.
    unpack "$package" || { as_root apt-get update -qq && unpack "$package"; }
  done
  mkdir -p "$work/bin"
  cp "$work/docker-registry/usr/bin/docker-registry" "$work/busybox-static/bin/busybox" "$work/bin/"
  cc -Os -static -o "$work/bin/pause" "$env_dir/images/pause.c"
}

new_root() { # NAME: prints the directory of an image's files, with the skeleton every image has
  local root=$work/roots/$1
  mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp,var/log}
  chmod 1777 "$root/tmp"
  printf 'root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
  echo "$root"
}

new_busybox_root() { # NAME
  local root applet
  root=$(new_root "$1")
  cp "$work/bin/busybox" "$root/bin/"
  while read -r applet; do ln -sf busybox "$root/bin/$applet"; done < <("$work/bin/busybox" --list | grep -vx busybox)
  echo "$root"
}

# Debian's exporter is linked with glibc; its loader and libraries go where it looks for them.
new_node_exporter_root() {
  local root binary=$work/prometheus-node-exporter/usr/bin/prometheus-node-exporter
  root=$(new_root node-exporter)
  cp "$binary" "$root/bin/node_exporter"
  ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$root$(dirname "$library")"
    cp -L "$library" "$root$library"
  done
  echo "$root"
}

# Uploads a file as a blob of REPOSITORY and prints its descriptor.
push_blob() { # REPOSITORY FILE MEDIA-TYPE
  local repository=$1 file=$2 type=$3 digest location
  digest=sha256:$(sha256sum "$file" | cut -d' ' -f1)
  location=$(curl -fsS -X POST -D - -o /dev/null "$registry/v2/$repository/blobs/uploads/" |
    tr -d '\r' | sed -n 's/^Location: //Ip')
  curl -fsS -X PUT -H 'Content-Type: application/octet-stream' -T "$file" "$location&digest=$digest"
  printf '{"mediaType":"%s","digest":"%s","size":%d}' "$type" "$digest" "$(stat -c %s "$file")"
}

# Makes an OCI image of one layer. Times and owners are fixed, so the same packages give the same digests.
push_image() { # REPOSITORY TAG ROOT CONFIG: the last is the image's `config` object
  local repository=$1 tag=$2 layer=$3.tar config=$3.config.json manifest=$3.manifest.json oci=application/vnd.oci.image
  tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -C "$3" -cf "$layer" .
  printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$arch" "$4" "$(sha256sum "$layer" | cut -d' ' -f1)" >"$config"
  printf '{"schemaVersion":2,"mediaType":"%s.manifest.v1+json","config":%s,"layers":[%s]}' "$oci" \
    "$(push_blob "$repository" "$config" "$oci.config.v1+json")" \
    "$(push_blob "$repository" "$layer" "$oci.layer.v1.tar")" >"$manifest"
  curl -fsS -X PUT -H "Content-Type: $oci.manifest.v1+json" -T "$manifest" "$registry/v2/$repository/manifests/$tag"
  say "images: built $repository:$tag"
}

stand_in() { # NAME: the `config` object of a stand-in
  printf '{"Entrypoint":["/stand-in"],"Env":["PATH=/bin"],"Labels":{"org.opencontainers.image.description":"%s"}}' \
    "A stand-in for $1 made by Garrison's demo; not the real program"
}

# The images of the tests' manifests, each once.
corpus_images() {
  grep -hoE 'image: *[^ ,}]+' "$top"/tests/data/corpus/*.yaml | sed -E 's/image: *"?//; s/"$//' | sort -u
}

# A registry is asked for a repository without the registry's own name, and Docker Hub's have one part more than is written.
push_corpus() {
  local root image name repository tag user
  root=$(new_busybox_root corpus)
  install -m 755 "$env_dir/images/stand-in.sh" "$root/stand-in"
  while read -r image; do
    name=${image%%:*} tag=${image#*:}
    [[ $image == *:* ]] || tag=latest
    case $name in
      *.*/*) repository=${name#*/} ;;
      */*) repository=$name ;;
      *) repository=library/$name ;;
    esac
    # As the real one, where a manifest counts on it.
    user=
    [[ $repository != nfd/* ]] || user=65534:65534
    push_image "$repository" "$tag" "$root" "$(printf '{"Entrypoint":["/stand-in"],"Env":["PATH=/bin"],"User":"%s"}' "$user")"
  done < <(corpus_images)
}

build() {
  local root port
  fetch_packages

  port=$(free_port 5010)
  registry=http://127.0.0.1:$port
  write_registry_config "$work" "$port" "$work/registry" false
  start_registry "$work" "$port" "$work/bin/docker-registry"
  trap 'stop_daemon "$work" registry' EXIT

  root=$(new_busybox_root busybox)
  push_image library/busybox 1.35 "$root" '{"Cmd":["sh"],"Env":["PATH=/bin"]}'

  root=$(new_node_exporter_root)
  push_image prom/node-exporter latest "$root" \
    '{"Entrypoint":["/bin/node_exporter"],"User":"nobody","ExposedPorts":{"9100/tcp":{}}}'

  root=$(new_busybox_root fluentd)
  install -m 755 "$env_dir/images/fluentd.sh" "$root/stand-in"
  push_image library/fluentd v1.16 "$root" "$(stand_in fluentd:v1.16)"

  root=$(new_busybox_root dcgm-exporter)
  install -m 755 "$env_dir/images/dcgm-exporter.sh" "$root/stand-in"
  push_image nvidia/dcgm-exporter latest "$root" "$(stand_in nvidia/dcgm-exporter:latest)"

  push_corpus

  root=$work/roots/pause
  mkdir -p "$root"
  cp "$work/bin/pause" "$root/pause"
  push_image pause 3.6 "$root" '{"Entrypoint":["/pause"]}'

  stop_daemon "$work" registry
  trap - EXIT
}

# The images are as new as what they are made from.
recipe() { { cat "$env_dir/images.sh" "$env_dir"/images/*; corpus_images; } | sha256sum; }

main() {
  mkdir -p "$target"
  # Tests that start together all ask for the images; one builds, the others wait for it.
  exec 9>"$images.lock"
  flock 9
  [[ $(cat "$images/recipe" 2>/dev/null) != "$(recipe)" ]] || return 0
  rm -rf "$work"
  mkdir -p "$work"
  build
  recipe >"$work/recipe"
  # What remains is what others use: the binaries (bin) and the registry's storage.
  rm -rf "$images"
  mkdir "$images"
  mv "$work"/{bin,registry,recipe} "$images"
  rm -rf "$work"
}

main
