//! Objects as trees of fields: which fields one has, in which two differ, two in one, one without some.
//!
//! In come JSON objects and the [`Shape`] of their kind. What has no rule is taken by its JSON type; an empty map or
//! list is a value of its own. Objects may break the rules of their lists (two elements with one key): they were stored
//! so. Only what somebody applies may not, which [`check`] says.
//!
//! Source: structured-merge-diff v6, `typed/{tofieldset,compare,merge,remove,helpers}.go`.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value};

use super::set::{self, FieldSet, Node};
use crate::control::shape::{Keyed, PLAIN, Rule, Shape};

/// `DEFAULT` of `ContainerPort.protocol` and `ServicePort.protocol`: the only key that need not be written.
const DEFAULT_PROTOCOL: (&str, &str) = ("protocol", "TCP");

/// How a value is taken apart.
#[derive(Clone, Copy)]
enum Structure {
    /// Not at all.
    Leaf,
    Fields(&'static Shape),
    Set,
    Keyed(&'static Keyed),
}

/// The rule of something, as its owner's shape has it.
type RuleOf = Option<&'static Rule>;

fn structure(rule: RuleOf, value: &Value) -> Structure {
    match (value, rule) {
        (Value::Object(_), Some(Rule::Object(shape))) => Structure::Fields(shape),
        (Value::Object(_), Some(Rule::Atomic)) => Structure::Leaf,
        (Value::Object(_), _) => Structure::Fields(&PLAIN),
        (Value::Array(_), Some(Rule::Set)) => Structure::Set,
        (Value::Array(_), Some(Rule::Keyed(keyed))) if keyed.apply_keys().next().is_some() => Structure::Keyed(keyed),
        _ => Structure::Leaf,
    }
}

impl Structure {
    fn is_as(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }

    fn is_leaf(self) -> bool {
        matches!(self, Self::Leaf)
    }

    /// What `value` consists of, in its order, each part with its element and rule. Elements of a list without their
    /// keys are left out.
    fn parts(self, value: Option<&Value>) -> Vec<(String, RuleOf, &Value)> {
        let fields = value.and_then(Value::as_object).into_iter().flatten();
        let items = value.and_then(Value::as_array).into_iter().flatten();
        match self {
            Self::Leaf => Vec::new(),
            Self::Fields(shape) => fields.map(|(name, value)| (set::field(name), shape.rule(name), value)).collect(),
            Self::Set => items.map(|item| (set::value(item), None, item)).collect(),
            Self::Keyed(keyed) => {
                let part = |item| Some((identity(keyed, item).ok()?, None, item));
                items.filter_map(part).collect()
            }
        }
    }

    /// The fields that a part of this structure consists of. Elements of a keyed list have rules of their own.
    fn of_part(self, rule: RuleOf, part: &Value) -> Self {
        match (self, part) {
            (Self::Keyed(keyed), _) if keyed.is_whole() => Self::Leaf,
            (Self::Keyed(keyed), Value::Object(_)) => Self::Fields(keyed.item),
            _ => structure(rule, part),
        }
    }
}

/// The element of a list that is told by its keys.
///
/// # Errors
/// The key that it lacks.
fn identity(keyed: &Keyed, item: &Value) -> Result<String, &'static str> {
    let mut keys = Map::new();
    for key in keyed.apply_keys() {
        let value = item.get(key).filter(|value| !value.is_null()).cloned();
        let default = (key == DEFAULT_PROTOCOL.0).then(|| DEFAULT_PROTOCOL.1.into());
        keys.insert(key.to_owned(), value.or(default).ok_or(key)?);
    }
    Ok(set::keys(keys))
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(fields) => fields.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Null => true,
        _ => false,
    }
}

// === the fields of one object ===

/// The fields an object of a shape has.
pub fn fields_of(shape: &'static Shape, object: &Value) -> FieldSet {
    node_of(Structure::Fields(shape), object).below
}

fn node_of(structure: Structure, value: &Value) -> Node {
    if structure.is_leaf() {
        return Node::leaf();
    }
    let mut below = FieldSet::default();
    for (element, rule, part) in structure.parts(Some(value)) {
        let mut node = node_of(structure.of_part(rule, part), part);
        let is_item = !matches!(structure, Structure::Fields(_));
        node.member |= is_item || matches!(part, Value::Object(fields) if fields.is_empty());
        below.put(element, node);
    }
    Node { member: false, below }
}

/// What keeps an object from being applied: elements of lists that cannot be told apart.
///
/// # Errors
/// The path and what is wrong there, as upstream says it.
pub fn check(shape: &'static Shape, object: &Value) -> Result<(), String> {
    check_value(Structure::Fields(shape), object, "")
}

fn check_value(structure: Structure, value: &Value, path: &str) -> Result<(), String> {
    if let Structure::Keyed(keyed) = structure {
        let keys = value.as_array().into_iter().flatten().map(|item| identity(keyed, item));
        if let Some((index, Err(key))) = keys.enumerate().find(|(_, key)| key.is_err()) {
            return Err(format!(
                "{path}: element {index}: associative list with keys has an element that omits key field {key:?} (and \
                 doesn't have default value)"
            ));
        }
    }
    let mut seen = BTreeSet::new();
    for (element, rule, part) in structure.parts(Some(value)) {
        let step = set::printed(&element);
        if !seen.insert(element) {
            return Err(format!("{path}: duplicate entries for key {step}"));
        }
        check_value(structure.of_part(rule, part), part, &format!("{path}{step}"))?;
    }
    Ok(())
}

// === two objects ===

/// In which fields two objects differ. No field is in more than one of the sets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Only the second has them.
    pub added: FieldSet,
    /// Both have them, with other values.
    pub modified: FieldSet,
    /// Only the first has them.
    pub removed: FieldSet,
}

/// [`Comparison`] at one node.
#[derive(Default)]
struct Difference {
    added: Node,
    modified: Node,
    removed: Node,
}

/// Compares an object with what became of it.
pub fn compare(shape: &'static Shape, before: &Value, after: &Value) -> Comparison {
    let structure = Structure::Fields(shape);
    let Difference { added, modified, removed } = compare_parts(structure, Some(before), Some(after));
    Comparison { added: added.below, modified: modified.below, removed: removed.below }
}

fn compare_values(rule: RuleOf, of: Structure, before: Option<&Value>, after: Option<&Value>) -> Difference {
    let (Some(value), structures) =
        (after.or(before), [before, after].map(|side| side.map(|side| of.of_part(rule, side))))
    else {
        return Difference::default();
    };
    let structure = of.of_part(rule, value);
    let alike = structures.into_iter().flatten().all(|side| side.is_as(structure));
    let both_empty = [before, after].into_iter().flatten().all(is_empty);
    if structure.is_leaf() || !alike || both_empty {
        return compare_leaves(before, after);
    }
    let mut difference = compare_parts(structure, before, after);
    difference.added.member = before.is_none();
    difference.removed.member = after.is_none();
    difference
}

fn compare_leaves(before: Option<&Value>, after: Option<&Value>) -> Difference {
    let leaf = Node::leaf();
    match (before, after) {
        (None, _) => Difference { added: leaf, ..Difference::default() },
        (_, None) => Difference { removed: leaf, ..Difference::default() },
        (before, after) if before == after => Difference::default(),
        _ => Difference { modified: leaf, ..Difference::default() },
    }
}

/// Repeated elements of a list count as one that has the value of all.
fn compare_parts(structure: Structure, before: Option<&Value>, after: Option<&Value>) -> Difference {
    let (left, right) = (structure.parts(before), structure.parts(after));
    let mut sides: HashMap<&str, (RuleOf, [Vec<&Value>; 2])> = HashMap::new();
    for (side, parts) in [&left, &right].into_iter().enumerate() {
        for (element, rule, part) in parts {
            let entry = sides.entry(element).or_insert_with(|| (*rule, [Vec::new(), Vec::new()]));
            entry.1[side].push(part);
        }
    }
    let mut difference = Difference::default();
    for (element, (rule, [before, after])) in sides {
        let part = match (before.as_slice(), after.as_slice()) {
            ([] | [_], [] | [_]) => compare_values(rule, structure, before.first().copied(), after.first().copied()),
            _ if before == after => Difference::default(),
            ([], _) => compare_leaves(None, Some(&Value::Null)),
            (_, []) => compare_leaves(Some(&Value::Null), None),
            _ => Difference { modified: Node::leaf(), ..Difference::default() },
        };
        difference.added.below.put(element.to_owned(), part.added);
        difference.modified.below.put(element.to_owned(), part.modified);
        difference.removed.below.put(element.to_owned(), part.removed);
    }
    difference
}

/// An object with all that another one says, where both say something what the other says.
pub fn merge(shape: &'static Shape, live: &Value, config: &Value) -> Value {
    merge_parts(Structure::Fields(shape), live, config)
}

fn merge_values(structure: Structure, rule: RuleOf, live: Option<&Value>, config: Option<&Value>) -> Option<Value> {
    let (Some(live), Some(config)) = (live, config) else { return config.or(live).cloned() };
    let (left, right) = (structure.of_part(rule, live), structure.of_part(rule, config));
    if right.is_leaf() || !left.is_as(right) {
        return Some(config.clone());
    }
    Some(merge_parts(right, live, config))
}

fn merge_parts(structure: Structure, live: &Value, config: &Value) -> Value {
    let (left, right) = (structure.parts(Some(live)), structure.parts(Some(config)));
    if !matches!(structure, Structure::Fields(_)) {
        return Value::Array(merge_lists(structure, &left, &right));
    }
    let (live, config) = (live.as_object(), config.as_object());
    let Structure::Fields(shape) = structure else { unreachable!("lists are merged above") };
    let mut merged = Map::new();
    for name in live.into_iter().chain(config).flat_map(Map::keys) {
        let side = |fields: Option<&'_ Map<String, Value>>| fields.and_then(|fields| fields.get(name)).cloned();
        let (live, config) = (side(live), side(config));
        if let Some(value) = merge_values(structure, shape.rule(name), live.as_ref(), config.as_ref()) {
            merged.insert(name.clone(), value);
        }
    }
    Value::Object(merged)
}

/// Elements that both have come in the order of what is applied; the others keep their place before the element they
/// stood before.
fn merge_lists(
    structure: Structure,
    live: &[(String, RuleOf, &Value)],
    config: &[(String, RuleOf, &Value)],
) -> Vec<Value> {
    let in_live = |element: &str| {
        let mut found = live.iter().filter(|(other, ..)| other == element);
        // Repeated elements are not merged with: which of them is meant?
        found.next().filter(|_| found.next().is_none()).map(|(.., value)| *value)
    };
    let is_live = |element: &str| live.iter().any(|(other, ..)| other == element);
    let is_applied = |element: &str| config.iter().any(|(other, ..)| other == element);
    let take = |(element, rule, value): &(String, RuleOf, &Value)| {
        merge_values(structure, *rule, in_live(element), Some(value)).expect("one side is there")
    };
    let mut shared = config.iter().filter(|(element, ..)| is_live(element)).map(|(element, ..)| element).peekable();
    let (mut merged, mut done) = (Vec::new(), BTreeSet::new());
    let (mut left, mut right) = (live.iter().peekable(), config.iter().peekable());
    loop {
        match (left.peek(), right.peek()) {
            (None, None) => return merged,
            // Only the live object has it.
            (Some((element, _, value)), _) if !is_applied(element) => {
                merged.push((*value).clone());
                left.next();
            }
            // Merged already, or its turn comes with an element of what is applied.
            (Some((element, ..)), _)
                if done.contains(element) || shared.peek().is_some_and(|next| *next != element) =>
            {
                left.next();
            }
            (_, Some(part)) => {
                merged.push(take(part));
                done.insert(part.0.clone());
                shared.next_if(|next| **next == part.0);
                right.next();
            }
            (Some(_), None) => {
                left.next();
            }
        }
    }
}

// === one object without some fields ===

/// An object without the fields of a set and all that is below them. What is empty then goes, too.
pub fn remove(shape: &'static Shape, object: &Value, fields: &FieldSet) -> Value {
    remove_parts(Structure::Fields(shape), object, fields)
}

fn remove_parts(structure: Structure, value: &Value, fields: &FieldSet) -> Value {
    let keep = |element: &str, rule: RuleOf, part: &Value| {
        let Some(node) = fields.get(element) else { return Some(part.clone()) };
        if node.member {
            return None;
        }
        let part_structure = structure.of_part(rule, part);
        if part_structure.is_leaf() || is_empty(part) {
            return Some(part.clone());
        }
        Some(remove_parts(part_structure, part, &node.below)).filter(|left| !is_empty(left))
    };
    match value {
        Value::Object(object) => {
            let Structure::Fields(shape) = structure else { return value.clone() };
            let left = |(name, part): (&String, &Value)| {
                Some((name.clone(), keep(&set::field(name), shape.rule(name), part)?))
            };
            Value::Object(object.iter().filter_map(left).collect())
        }
        Value::Array(_) => {
            let parts = structure.parts(Some(value));
            Value::Array(parts.into_iter().filter_map(|(element, rule, part)| keep(&element, rule, part)).collect())
        }
        scalar => scalar.clone(),
    }
}
