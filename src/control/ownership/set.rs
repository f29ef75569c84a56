//! Sets of fields of one object, as `fieldsV1` writes them.
//!
//! A set is a tree of path elements. An element is kept as the text it has in JSON: `f:name` is a field, `k:{…}` an
//! element of a list by its keys, `v:…` one by its value, `i:…` one by its place. A node may be a member itself, have
//! members below it, or both; what has neither is not in the tree, so equal sets are equal trees.
//!
//! Source: structured-merge-diff v6, `fieldpath/{set,serialize,path}.go`.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet(BTreeMap<String, Node>);

/// One element of a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// The path that ends here is in the set.
    pub member: bool,
    /// What is in the set further down.
    pub below: FieldSet,
}

/// The path element of a field.
pub fn field(name: &str) -> String {
    format!("f:{name}")
}

/// The path element of a list's element that is told by its value.
pub fn value(value: &Value) -> String {
    format!("v:{value}")
}

/// The path element of a list's element that is told by some of its fields.
pub fn keys(keys: Map<String, Value>) -> String {
    format!("k:{}", Value::Object(keys))
}

impl Node {
    /// A member with nothing below.
    pub fn leaf() -> Self {
        Self { member: true, below: FieldSet::default() }
    }

    fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }

    fn combine(&self, other: &Self, keep: fn(bool, bool) -> bool) -> Self {
        Self { member: keep(self.member, other.member), below: self.below.combine(&other.below, keep) }
    }
}

impl FieldSet {
    /// The set of these paths, each from the root.
    pub fn of<const N: usize>(paths: [&[&str]; N]) -> Self {
        paths.into_iter().fold(Self::default(), |set, path| set.union(&Self::single(path)))
    }

    fn single(path: &[&str]) -> Self {
        let Some((first, rest)) = path.split_first() else { return Self::default() };
        let mut set = Self::default();
        set.put(field(first), Node { member: rest.is_empty(), below: Self::single(rest) });
        set
    }

    /// Adds what is at and below one element. Nothing is added for an empty node.
    pub fn put(&mut self, element: String, node: Node) {
        if !node.is_empty() {
            self.0.insert(element, node);
        }
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The node of an element, if anything is at or below it.
    pub fn get(&self, element: &str) -> Option<&Node> {
        self.0.get(element)
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.combine(other, |this, other| this || other)
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |this, other| this && other)
    }

    /// What is in this one only. What is below a path that goes stays.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        self.combine(other, |this, other| this && !other)
    }

    fn combine(&self, other: &Self, keep: fn(bool, bool) -> bool) -> Self {
        let (nothing, mut combined) = (Node::default(), Self::default());
        for element in self.0.keys().chain(other.0.keys()) {
            let node = |set: &Self| set.0.get(element).cloned();
            let (this, other) = (node(self), node(other));
            let node = this.as_ref().unwrap_or(&nothing).combine(other.as_ref().unwrap_or(&nothing), keep);
            combined.put(element.clone(), node);
        }
        combined
    }

    /// Without one field of the root and all below it.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.0.remove(&field(name));
        self
    }

    /// With every field that has members below it.
    #[must_use]
    pub fn named(&self) -> Self {
        let name = |(element, node): (&String, &Node)| {
            let member = node.member || element.starts_with("f:");
            (element.clone(), Node { member, below: node.below.named() })
        };
        Self(self.0.iter().map(name).collect())
    }

    /// Every path as messages write it: `.spec.containers[name="c"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, prefix: &str, paths: &mut Vec<String>) {
        for (element, node) in &self.0 {
            let path = format!("{prefix}{}", printed(element));
            node.below.collect(&path, paths);
            if node.member {
                paths.push(path);
            }
        }
    }

    /// As `fieldsV1`.
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        for (element, node) in &self.0 {
            let mut below = node.below.to_json();
            if node.member && !node.below.is_empty() {
                below["."] = json!({});
            }
            fields.insert(element.clone(), below);
        }
        Value::Object(fields)
    }

    /// Out of `fieldsV1`. Nothing if it is none.
    pub fn from_json(fields: &Value) -> Option<Self> {
        let mut set = Self::default();
        for (element, below) in fields.as_object()? {
            if element == "." {
                continue;
            }
            let member = below.get(".").is_some() || below.as_object()?.is_empty();
            set.put(canonical(element)?, Node { member, below: Self::from_json(below)? });
        }
        Some(set)
    }
}

/// An element as this module writes it: the JSON in it in one form only.
fn canonical(element: &str) -> Option<String> {
    let (kind, content) = element.split_once(':')?;
    match kind {
        "f" => Some(element.to_owned()),
        "i" => content.parse::<i64>().ok().map(|place| format!("i:{place}")),
        "v" => Some(value(&serde_json::from_str(content).ok()?)),
        "k" => Some(keys(serde_json::from_str(content).ok()?)),
        _ => None,
    }
}

/// An element as messages write it.
pub fn printed(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("v", value)) => format!("[={value}]"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        Some((_, place)) => format!("[{place}]"),
        None => element.to_owned(),
    }
}
