//! Merging one list of a strategic merge patch: which elements it has afterwards, and in which order.
//!
//! Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/util/strategicpatch/patch.go`, `mergeSlice` and
//! `normalizeElementOrder`; design-proposals-archive, `cli/preserve-order-in-strategic-merge-patch.md`.

use std::collections::HashMap;

use serde_json::Value;

use super::strategic::{self, PATCH, StrategicError, fresh_elements};
use crate::control::shape::{Keyed, Rule};

/// A list whose elements have an identity.
pub(super) struct MergedList<'a> {
    field: &'a str,
    /// `None` for a set of scalars: an element is its own identity.
    keyed: Option<&'static Keyed>,
}

impl<'a> MergedList<'a> {
    /// The list at `field`, unless its rule is to be replaced as a whole.
    pub(super) fn of(field: &'a str, rule: Option<&'static Rule>) -> Option<Self> {
        match rule {
            Some(Rule::Keyed(keyed)) => Some(Self { field, keyed: Some(keyed) }),
            Some(Rule::Set) => Some(Self { field, keyed: None }),
            Some(Rule::Object(_) | Rule::Atomic) | None => None,
        }
    }

    /// The live list with `patch` merged into it.
    ///
    /// `order` is the content of `$setElementOrder`; without it the elements of the patch keep the patch's order.
    /// Live elements that are not named keep their order and stay before those they stood before; so what is new and
    /// has no order set comes first.
    ///
    /// # Errors
    /// Elements without the key, unknown directives, and a patch in another order than `order`.
    pub(super) fn merge(
        &self,
        live: Vec<Value>,
        patch: Vec<Value>,
        order: Option<Vec<Value>>,
    ) -> Result<Vec<Value>, StrategicError> {
        let (marked, items): (Vec<_>, Vec<_>) = patch.into_iter().partition(|element| element.get(PATCH).is_some());
        let live = self.without_marked(live, &marked)?;
        let stood = self.identities(&live)?;
        let given = self.identities(&items)?;
        let order = match order {
            None => given,
            Some(order) => {
                let order = self.identities(&order)?;
                self.check_order(&given, &order)?;
                order
            }
        };
        // What is new as a whole is taken as written, repeated keys included: validation names them.
        let merged = if live.is_empty() { fresh_elements(items) } else { self.merge_items(live, items)? };
        self.arrange(merged, &order, &stood)
    }

    /// The live elements that the directives in elements leave.
    fn without_marked(&self, mut live: Vec<Value>, marked: &[Value]) -> Result<Vec<Value>, StrategicError> {
        let mut replaced = false;
        for element in marked {
            match element[PATCH].as_str() {
                Some("replace") => replaced = true,
                Some("delete") => {
                    let doomed = self.identity(element)?;
                    live.retain(|element| self.identity(element).as_ref() != Ok(&doomed));
                }
                _ => {
                    let problem =
                        format!("has an element with $patch: {}; an element can say delete or replace", element[PATCH]);
                    return Err(StrategicError::at(self.field, problem));
                }
            }
        }
        Ok(if replaced { Vec::new() } else { live })
    }

    /// Elements of the patch must come in the order set, and be among it.
    fn check_order(&self, given: &[Value], order: &[Value]) -> Result<(), StrategicError> {
        let mut rest = order.iter();
        if order.is_empty() || given.iter().all(|wanted| rest.any(|identity| identity == wanted)) {
            return Ok(());
        }
        Err(StrategicError::at(self.field, "does not follow the order that $setElementOrder gives for it"))
    }

    fn merge_items(&self, mut live: Vec<Value>, items: Vec<Value>) -> Result<Vec<Value>, StrategicError> {
        let mut places = places(self.identities(&live)?);
        for item in items {
            let identity = self.identity(&item)?;
            let Some(&place) = places.get(&identity) else {
                places.insert(identity, live.len());
                live.extend(fresh_elements(vec![item]));
                continue;
            };
            if let (Some(keyed), Value::Object(target), Value::Object(patch)) = (self.keyed, &mut live[place], item) {
                strategic::merge(target, patch, keyed.item).map_err(|error| error.below(self.field))?;
            }
        }
        Ok(live)
    }

    fn arrange(&self, elements: Vec<Value>, order: &[Value], stood: &[Value]) -> Result<Vec<Value>, StrategicError> {
        let (order, stood) = (places(order.to_vec()), places(stood.to_vec()));
        let (mut named, mut others) = (Vec::new(), Vec::new());
        for element in elements {
            let identity = self.identity(&element)?;
            let before = stood.get(&identity).copied();
            match order.get(&identity) {
                Some(&place) => named.push((place, before, element)),
                None => others.push((before, element)),
            }
        }
        named.sort_by_key(|(place, ..)| *place);
        let mut others = others.into_iter().peekable();
        let mut arranged = Vec::new();
        for (_, named_before, element) in named {
            let stood_before =
                |other: Option<usize>| other.zip(named_before).is_some_and(|(other, named)| other < named);
            while let Some((_, other)) = others.next_if(|(before, _)| stood_before(*before)) {
                arranged.push(other);
            }
            arranged.push(element);
        }
        arranged.extend(others.map(|(_, other)| other));
        Ok(arranged)
    }

    fn identities(&self, elements: &[Value]) -> Result<Vec<Value>, StrategicError> {
        elements.iter().map(|element| self.identity(element)).collect()
    }

    fn identity(&self, element: &Value) -> Result<Value, StrategicError> {
        match self.keyed {
            Some(Keyed { key, .. }) => element.get(key).cloned().ok_or_else(|| {
                StrategicError::at(
                    self.field,
                    format!("has an element without {key:?}, which tells its elements apart"),
                )
            }),
            None if element.is_object() || element.is_array() => {
                Err(StrategicError::at(self.field, "has an element that is not a scalar"))
            }
            None => Ok(element.clone()),
        }
    }
}

/// Where each identity stands first.
fn places(identities: Vec<Value>) -> HashMap<Value, usize> {
    let mut places = HashMap::new();
    for (place, identity) in identities.into_iter().enumerate() {
        places.entry(identity).or_insert(place);
    }
    places
}
