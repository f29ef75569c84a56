//! Credentials for registries: what docker's two file formats hold, and which of them go with an image.
//!
//! Pure. A pod's come from its `imagePullSecrets`, the node's from a file; both have the same formats.
//!
//! Source: kubernetes v1.36 `pkg/credentialprovider/{config,keyring}.go`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{Engine as _, alphabet};
use serde::Deserialize;

use super::objects::{Found, Objects};
use super::{Pod, image};

/// The type of a Secret with a `~/.docker/config.json`, and the key it is under.
const CONFIG_JSON: (&str, &str) = ("kubernetes.io/dockerconfigjson", ".dockerconfigjson");
/// The type of a Secret with the older `~/.dockercfg`, and the key it is under.
const CONFIG: (&str, &str) = ("kubernetes.io/dockercfg", ".dockercfg");

/// Docker Hub by the name credentials have for it; images have another.
const DOCKER_HUB: &str = "index.docker.io";

/// Base 64 with or without padding, as docker's own tools write and take it.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Credentials for a registry, as CRI's `AuthConfig`; what is empty is not sent.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credentials {
    /// User name.
    pub username: String,
    /// Password of `username`.
    pub password: String,
    /// Instead of a password: a token to be exchanged at the registry's token service.
    pub identity_token: String,
    /// Instead of all others: a bearer token for the registry itself.
    pub registry_token: String,
}

impl fmt::Debug for Credentials {
    /// Names the user and hides the rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

/// Why a file or a Secret holds no credentials. Says nothing of its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCredentials {
    /// Another type, or the key of its type is not there.
    #[error("it is no secret of type {} or {} with the key of its type", CONFIG_JSON.0, CONFIG.0)]
    Kind,
    /// Not of the format.
    #[error("it is no docker configuration: wrong at line {line} column {column}")]
    Format {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// `auth` is not user and password.
    #[error("auth of {registry:?} is not user and password in base 64")]
    Auth {
        /// Of which entry.
        registry: String,
    },
}

/// Everything that may be shown to registries. Empty at first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Keyring {
    /// By host and path, without a scheme.
    entries: BTreeMap<String, Vec<Credentials>>,
}

#[derive(Deserialize)]
struct ConfigJson {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
    registrytoken: String,
}

impl Keyring {
    /// Adds what a Secret holds.
    ///
    /// # Errors
    /// [`BadCredentials`], and nothing was added.
    pub fn add_secret(&mut self, type_: &str, data: &BTreeMap<String, Vec<u8>>) -> Result<(), BadCredentials> {
        if type_ == CONFIG_JSON.0 {
            self.add_config_json(data.get(CONFIG_JSON.1).ok_or(BadCredentials::Kind)?)
        } else if type_ == CONFIG.0 {
            self.add(parse(data.get(CONFIG.1).ok_or(BadCredentials::Kind)?)?)
        } else {
            Err(BadCredentials::Kind)
        }
    }

    /// Adds what a `config.json` of docker holds; all but `auths` is left aside.
    ///
    /// # Errors
    /// [`BadCredentials`], and nothing was added.
    pub fn add_config_json(&mut self, text: &[u8]) -> Result<(), BadCredentials> {
        self.add(parse::<ConfigJson>(text)?.auths)
    }

    fn add(&mut self, entries: BTreeMap<String, Entry>) -> Result<(), BadCredentials> {
        let read = entries.into_iter().map(|(registry, entry)| Ok((key(&registry), credentials(&registry, entry)?)));
        for (key, credentials) in read.collect::<Result<Vec<_>, BadCredentials>>()? {
            if credentials != Credentials::default() {
                self.entries.entry(key).or_default().push(credentials);
            }
        }
        Ok(())
    }

    /// What to show for an image, one after the other until one is taken: the most specific first, each once. Empty for an
    /// image to be pulled by anybody.
    pub fn lookup(&self, reference: &str) -> Vec<Credentials> {
        let repository = image::repository(reference);
        let matching = self.entries.iter().rev().filter(|(key, _)| matches(key, &repository));
        let mut found: Vec<_> = matching.flat_map(|(_, credentials)| credentials.clone()).collect();
        if found.is_empty() && repository.starts_with("docker.io/") {
            found = self.entries.get(DOCKER_HUB).cloned().unwrap_or_default();
        }
        let mut seen = BTreeSet::new();
        found.retain(|credentials| seen.insert(credentials.clone()));
        found
    }
}

/// What the pod's `imagePullSecrets` come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullSecrets {
    /// What they hold.
    pub keyring: Keyring,
    /// The names of those that are not there; the pull goes on without them.
    pub missing: Vec<String>,
}

/// Takes together what the pod's pull secrets hold. As upstream, one of another type holds nothing.
///
/// # Errors
/// The first Secret whose content is not of its type's format, and why.
///
/// Source: kubernetes v1.36 `pkg/kubelet/kubelet_pods.go`, `getPullSecretsForPod`, and
/// `pkg/credentialprovider/secrets/secrets.go`, `MakeDockerKeyring`.
pub fn pull_secrets(pod: &Pod, objects: &Objects) -> Result<PullSecrets, String> {
    let mut secrets = PullSecrets::default();
    for name in &pod.pull_secrets {
        let Found::Present(secret) = objects.secret(pod, name) else {
            secrets.missing.push(name.clone());
            continue;
        };
        match secrets.keyring.add_secret(&secret.type_, &secret.data) {
            Ok(()) | Err(BadCredentials::Kind) => {}
            Err(error) => return Err(format!("unable to use image pull secret \"{name}\": {error}")),
        }
    }
    Ok(secrets)
}

fn parse<'a, T: Deserialize<'a>>(text: &'a [u8]) -> Result<T, BadCredentials> {
    // The error's own text may quote what it found.
    serde_json::from_slice(text).map_err(|error| BadCredentials::Format { line: error.line(), column: error.column() })
}

/// `auth` goes before user and password given by themselves.
fn credentials(registry: &str, entry: Entry) -> Result<Credentials, BadCredentials> {
    let Entry { mut username, mut password, auth, identitytoken, registrytoken } = entry;
    if !auth.is_empty() {
        let bad = || BadCredentials::Auth { registry: registry.to_owned() };
        let text = String::from_utf8(BASE64.decode(auth.trim()).map_err(|_| bad())?).map_err(|_| bad())?;
        let (user, rest) = text.split_once(':').ok_or_else(bad)?;
        (username, password) = (user.to_owned(), rest.trim_end_matches('\0').to_owned());
    }
    Ok(Credentials { username, password, identity_token: identitytoken, registry_token: registrytoken })
}

/// Host and path that an entry is for: scheme and the version of the registry's API play no part.
fn key(registry: &str) -> String {
    let bare = registry.strip_prefix("https://").or_else(|| registry.strip_prefix("http://")).unwrap_or(registry);
    let (host, path) = bare.split_at(bare.find('/').unwrap_or(bare.len()));
    let versionless = ["/v1/", "/v2/"].iter().find_map(|version| path.strip_prefix(version));
    match versionless.map_or_else(|| path.to_owned(), |rest| format!("/{rest}")).as_str() {
        "/" => host.to_owned(),
        path => format!("{host}{path}"),
    }
}

/// Whether an entry is for a repository: as many labels in the host, each a glob, the same port, and a path that begins so.
fn matches(key: &str, repository: &str) -> bool {
    let split = |text: &str| {
        let (host, path) = text.split_at(text.find('/').unwrap_or(text.len()));
        let (name, port) = host.rsplit_once(':').unwrap_or((host, ""));
        (name.split('.').map(str::to_owned).collect::<Vec<_>>(), port.to_owned(), path.to_owned())
    };
    let ((labels, port, path), (other_labels, other_port, other_path)) = (split(key), split(repository));
    port == other_port
        && labels.len() == other_labels.len()
        && other_path.starts_with(&path)
        && labels.iter().zip(&other_labels).all(|(glob, label)| is_like(glob.as_bytes(), label.as_bytes()))
}

/// Shell globs: `*`, `?`, `[a-z]`, `[^a-z]`. What is no glob is like nothing. Takes no longer than both lengths multiplied,
/// whatever somebody wrote into a Secret.
///
/// Source: Go's `path/filepath`, `Match`.
fn is_like(mut glob: &[u8], mut text: &[u8]) -> bool {
    // Of several stars only the last ever needs to take more: what stands before it has found its first place.
    let mut star = None;
    loop {
        if let Some(rest) = glob.strip_prefix(b"*") {
            (glob, star) = (rest, Some((rest, text)));
        } else if glob.is_empty() && text.is_empty() {
            return true;
        } else if let Some(rest) = text.first().and_then(|byte| after_one(glob, *byte)) {
            (glob, text) = (rest, &text[1..]);
        } else if let Some((rest, [_, later @ ..])) = star {
            (glob, text, star) = (rest, later, Some((rest, later)));
        } else {
            return false;
        }
    }
}

/// What is left of a glob that begins with something for this byte.
fn after_one(glob: &[u8], byte: u8) -> Option<&[u8]> {
    match glob.split_first()? {
        (b'?', rest) => Some(rest),
        (b'[', rest) => {
            let end = rest.iter().position(|byte| *byte == b']')?;
            let (negated, set) = match rest[..end].split_first() {
                Some((b'^', set)) => (true, set),
                _ => (false, &rest[..end]),
            };
            (is_in(set, byte) != negated).then_some(&rest[end + 1..])
        }
        (wanted, rest) => (*wanted == byte).then_some(rest),
    }
}

fn is_in(set: &[u8], byte: u8) -> bool {
    match set {
        [low, b'-', high, rest @ ..] => (*low..=*high).contains(&byte) || is_in(rest, byte),
        [one, rest @ ..] => *one == byte || is_in(rest, byte),
        [] => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{ObjectKey, Source};
    use crate::podspec::ObjectKind;
    use crate::podspec::objects::{Held, Object, ObjectId};
    use crate::testing::pods;

    fn secret(type_: &str, key: &str, content: &Value) -> Result<Keyring, BadCredentials> {
        let mut keyring = Keyring::default();
        keyring.add_secret(type_, &[(key.to_owned(), content.to_string().into_bytes())].into())?;
        Ok(keyring)
    }

    /// A keyring whose entries' users are named for their registries.
    fn keyring(registries: &[&str]) -> Keyring {
        let entry = |registry: &&str| ((*registry).to_owned(), json!({ "username": registry }));
        let auths: serde_json::Map<_, _> = registries.iter().map(entry).collect();
        secret(CONFIG_JSON.0, CONFIG_JSON.1, &json!({ "auths": auths })).unwrap()
    }

    fn users(keyring: &Keyring, image: &str) -> Vec<String> {
        keyring.lookup(image).into_iter().map(|credentials| credentials.username).collect()
    }

    #[test]
    fn the_most_specific_entry_comes_first() {
        let keyring =
            keyring(&["a.example", "a.example/team", "a.example/team/app", "b.example", "https://a.example/v2/"]);
        let all = ["a.example/team/app", "a.example/team", "a.example", "https://a.example/v2/"];
        assert_eq!(users(&keyring, "a.example/team/app:1"), all);
        assert_eq!(users(&keyring, "a.example/other"), all[2..]);
        assert_eq!(users(&keyring, "c.example/team"), Vec::<String>::new());
    }

    #[test]
    fn an_entry_matches_by_host_port_and_path() {
        for (entry, image, expected) in [
            ("a.example:5000", "a.example:5000/x", true),
            ("a.example", "a.example:5000/x", false),
            ("a.example:5000", "a.example/x", false),
            ("*.example", "a.example/x", true),
            ("*.example", "b.a.example/x", false),
            ("*.*.example", "b.a.example/x", true),
            ("a?[b-d]*.example", "axcxx.example/x", true),
            ("a[^b].example", "ab.example/x", false),
            ("a[b.example", "ab.example/x", false),
            ("http://a.example/v1/", "a.example/x@sha256:00000000000000000000000000000000", true),
            ("a.example/v2/team", "a.example/team/x", true),
            ("https://index.docker.io/v1/", "busybox", true),
            ("https://index.docker.io/v1/", "docker.io/grafana/promtail:1", true),
            ("docker.io", "grafana/promtail:1", true),
            ("index.docker.io", "localhost/x", false),
            ("localhost:5000", "localhost:5000/x:1", true),
        ] {
            assert_eq!(!users(&keyring(&[entry]), image).is_empty(), expected, "{entry} for {image}");
        }
    }

    /// What globs are, written down as they are defined: takes ages for some.
    fn model(glob: &[u8], text: &[u8]) -> bool {
        match glob.strip_prefix(b"*") {
            Some(rest) => (0..=text.len()).any(|taken| model(rest, &text[taken..])),
            None if glob.is_empty() => text.is_empty(),
            None => {
                let rest = text.first().and_then(|byte| after_one(glob, *byte));
                rest.is_some_and(|rest| model(rest, &text[1..]))
            }
        }
    }

    proptest! {
        #[test]
        fn a_glob_is_what_it_is_defined_to_be(glob in "[ab*?]{0,8}|[ab*\\[\\]^-]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(is_like(glob.as_bytes(), text.as_bytes()), model(glob.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn whatever_a_secret_holds_is_read_or_refused(
            entries in proptest::collection::btree_map("\\PC{0,20}", ("[a-zA-Z0-9+/=]{0,20}|\\PC{0,5}", ".{0,4}"), 0..4),
            cut in 0_usize..400,
            image in "[a-z.:/@]{0,20}",
        ) {
            let entry = |(registry, (auth, user)): (&String, &(String, String))| {
                (registry.clone(), json!({ "auth": auth, "username": user }))
            };
            let text = json!({ "auths": entries.iter().map(entry).collect::<serde_json::Map<_, _>>() }).to_string();
            let whole = Keyring::default().add_config_json(text.as_bytes());
            prop_assert!(!matches!(whole, Err(BadCredentials::Format { .. })), "{text}");
            let mut keyring = Keyring::default();
            let bytes = &text.as_bytes()[..cut.min(text.len())];
            if keyring.add_config_json(bytes).is_err() {
                prop_assert_eq!(&keyring, &Keyring::default(), "what is refused adds nothing");
            }
            keyring.lookup(&image);
        }
    }

    #[test]
    fn a_glob_of_many_stars_takes_no_time() {
        let (glob, text) = ("*a".repeat(100) + "b", "a".repeat(10_000));
        assert!(!is_like(glob.as_bytes(), text.as_bytes()));
    }

    #[test]
    fn both_formats_are_read_with_and_without_padding() {
        let expected =
            [Credentials { username: "user".to_owned(), password: "pass:word".to_owned(), ..Credentials::default() }];
        // Base 64 of "user:pass:word" ends in one sign of padding.
        for auth in ["dXNlcjpwYXNzOndvcmQ=", "dXNlcjpwYXNzOndvcmQ"] {
            let entries = json!({ "a.example": { "auth": auth, "username": "other", "email": "x@example" } });
            let modern = secret(CONFIG_JSON.0, CONFIG_JSON.1, &json!({ "auths": entries, "credsStore": "x" })).unwrap();
            let old = secret(CONFIG.0, CONFIG.1, &entries).unwrap();
            assert_eq!(
                (modern.lookup("a.example/x"), old.lookup("a.example/x")),
                (expected.to_vec(), expected.to_vec())
            );
        }
    }

    #[test]
    fn a_pods_secrets_are_taken_together_and_missing_ones_are_named() {
        let mut pod = pods::pod("web", std::path::Path::new("/"));
        pod.pull_secrets = ["gone", "a", "other", "b"].map(str::to_owned).into();
        let mut objects = Objects::default();
        let mut put = |name: &str, type_: &str, content: &str| {
            let data = [(CONFIG_JSON.1.to_owned(), content.as_bytes().to_vec())].into();
            let object = Object { data, type_: type_.to_owned(), ..Object::default() };
            let key = ObjectKey::new("default", name);
            let id = ObjectId { source: Source::Link, kind: ObjectKind::Secret, key };
            objects.held.insert(id, Held { object: object.into(), kept_for: [].into() });
            objects.clone()
        };
        put("a", CONFIG_JSON.0, r#"{"auths": {"a.example": {"username": "a"}}}"#);
        put("other", "Opaque", "{}");
        let objects = put("b", CONFIG_JSON.0, r#"{"auths": {"a.example": {"username": "b"}}}"#);
        let secrets = pull_secrets(&pod, &objects).unwrap();
        assert_eq!(users(&secrets.keyring, "a.example/x"), ["a", "b"]);
        assert_eq!(secrets.missing, ["gone"]);
        let objects = put("b", CONFIG_JSON.0, "[");
        let error = pull_secrets(&pod, &objects).unwrap_err();
        let why = "it is no docker configuration: wrong at line 1 column 1";
        assert_eq!(error, format!("unable to use image pull secret \"b\": {why}"));
    }

    #[test]
    fn what_is_wrong_is_said_without_quoting_it() {
        let auths = |entry: Value| json!({ "auths": { "a.example": entry } });
        for (type_, content, message) in [
            ("Opaque", json!({}), "it is no secret of type kubernetes.io/dockerconfigjson or kubernetes.io/dockercfg"),
            (CONFIG_JSON.0, json!({ "auths": 5 }), "it is no docker configuration: wrong at line 1 column 10"),
            (CONFIG_JSON.0, auths(json!({ "auth": "§secret" })), "auth of \"a.example\" is not user and password"),
            (CONFIG_JSON.0, auths(json!({ "auth": "c2VjcmV0" })), "auth of \"a.example\" is not user and password"),
        ] {
            let error = secret(type_, CONFIG_JSON.1, &content).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
        }
        let shown = format!("{:?}", Credentials { password: "secret".to_owned(), ..Credentials::default() });
        assert!(!shown.contains("secret"), "{shown}");
    }
}
