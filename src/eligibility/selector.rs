//! Label selection: `nodeSelector` and the required node affinity.
//!
//! Source: kubernetes v1.36 `staging/src/k8s.io/component-helpers/scheduling/corev1/nodeaffinity/nodeaffinity.go` and
//! `staging/src/k8s.io/apimachinery/pkg/labels/selector.go`.

use std::fmt;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodSpec};

use crate::eligibility::{NodeFacts, Reason};

/// The only field of a Node that `matchFields` can name.
const NAME_FIELD: &str = "metadata.name";

const TERMS: &str = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";

/// A requirement of the node affinity that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct BadSelector {
    /// Path below the pod template, such as `spec.affinity.….nodeSelectorTerms[0].matchExpressions[1].values`.
    pub field: String,
    /// What is wrong and what may stand there.
    pub problem: String,
}

/// A requirement the node does not meet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// What is required.
    pub requirement: Requirement,
    /// The label's or field's value on the node; none if it has no such label.
    pub found: Option<String>,
}

/// A requirement as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// `label` or `field`.
    pub subject: &'static str,
    /// The label's key or the field's path.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, `Gt` or `Lt`.
    pub operator: String,
    /// May be empty.
    pub values: Vec<String>,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Requirement { subject, key, operator, values } = &self.requirement;
        match (operator.as_str(), values.as_slice()) {
            ("Exists", _) => write!(f, "{subject} {key} to exist")?,
            ("DoesNotExist", _) => write!(f, "{subject} {key} not to exist")?,
            ("Gt", [value]) => write!(f, "{subject} {key} to be greater than {value}")?,
            ("Lt", [value]) => write!(f, "{subject} {key} to be less than {value}")?,
            (_, values) => write!(f, "{subject} {key} {operator} [{}]", values.join(", "))?,
        }
        match &self.found {
            Some(found) => write!(f, ", the node has {key}={found}"),
            None => write!(f, ", the node has no {subject} {key}"),
        }
    }
}

/// Adds to `reasons` what the labels and the name of the node have against the pod.
pub(super) fn check(node: &NodeFacts<'_>, spec: &PodSpec, reasons: &mut Vec<Reason>) -> Result<(), BadSelector> {
    for (key, wanted) in spec.node_selector.iter().flatten() {
        let found = node.labels.get(key);
        if found != Some(wanted) {
            reasons.push(Reason::NodeSelector { key: key.clone(), wanted: wanted.clone(), found: found.cloned() });
        }
    }
    let node_affinity = spec.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
    let required =
        node_affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
    if let Some(terms) = required.map_or(Ok(None), |selector| unmatched(node, selector))? {
        reasons.push(Reason::NodeAffinity { terms });
    }
    Ok(())
}

/// What each term misses; none if some term matches. All terms are read, so that a bad one is found on every node.
fn unmatched(node: &NodeFacts<'_>, selector: &NodeSelector) -> Result<Option<Vec<Option<Mismatch>>>, BadSelector> {
    let mut misses = Vec::new();
    let mut matched = false;
    for (index, term) in selector.node_selector_terms.iter().enumerate() {
        match read_term(node, term)
            .map_err(|(field, problem)| BadSelector { field: format!("{TERMS}[{index}].{field}"), problem })?
        {
            Term::Matches => matched = true,
            Term::Empty => misses.push(None),
            Term::Misses(subject, requirement, found) => misses.push(Some(mismatch(subject, requirement, found))),
        }
    }
    Ok((!matched).then_some(misses))
}

fn mismatch(subject: &'static str, requirement: &NodeSelectorRequirement, found: Option<&str>) -> Mismatch {
    Mismatch {
        requirement: Requirement {
            subject,
            key: requirement.key.clone(),
            operator: requirement.operator.clone(),
            values: requirement.values.clone().unwrap_or_default(),
        },
        found: found.map(str::to_owned),
    }
}

/// What one term says about the node.
enum Term<'a> {
    Matches,
    Empty,
    /// Its first requirement that is not met, of labels or fields, and what the node has instead.
    Misses(&'static str, &'a NodeSelectorRequirement, Option<&'a str>),
}

/// Reads one term; the error is the field's path within the term and what is wrong.
fn read_term<'a>(node: &NodeFacts<'a>, term: &'a NodeSelectorTerm) -> Result<Term<'a>, (String, String)> {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let mut answer = if expressions.is_empty() && fields.is_empty() { Term::Empty } else { Term::Matches };
    let mut note = |met: bool, miss: Term<'a>| {
        if !met && matches!(answer, Term::Matches) {
            answer = miss;
        }
    };
    for (index, requirement) in expressions.iter().enumerate() {
        let at = |(field, problem)| (format!("matchExpressions[{index}].{field}"), problem);
        let found = node.labels.get(&requirement.key).map(String::as_str);
        let met = Operator::read(requirement).map_err(at)?.is_met_by(found);
        note(met, Term::Misses("label", requirement, found));
    }
    for (index, requirement) in fields.iter().enumerate() {
        let at = |(field, problem)| (format!("matchFields[{index}].{field}"), problem);
        let met = Operator::read_field(requirement).map_err(at)?.is_met_by(Some(node.name.as_str()));
        note(met, Term::Misses("field", requirement, Some(node.name.as_str())));
    }
    Ok(answer)
}

/// An operator with the values it takes.
enum Operator<'a> {
    In(&'a [String]),
    NotIn(&'a [String]),
    Exists,
    DoesNotExist,
    Gt(i64),
    Lt(i64),
}

impl<'a> Operator<'a> {
    fn read(requirement: &'a NodeSelectorRequirement) -> Result<Self, (&'static str, String)> {
        let values = requirement.values.as_deref().unwrap_or_default();
        let bad = |problem: &str| Err(("values", format!("{problem} with operator {}", requirement.operator)));
        match (requirement.operator.as_str(), values) {
            ("In" | "NotIn", []) => bad("must have at least one value"),
            ("In", values) => Ok(Self::In(values)),
            ("NotIn", values) => Ok(Self::NotIn(values)),
            ("Exists", []) => Ok(Self::Exists),
            ("DoesNotExist", []) => Ok(Self::DoesNotExist),
            ("Exists" | "DoesNotExist", _) => bad("must be empty"),
            ("Gt" | "Lt", [value]) => match value.parse() {
                Ok(number) if requirement.operator == "Gt" => Ok(Self::Gt(number)),
                Ok(number) => Ok(Self::Lt(number)),
                Err(_) => bad(&format!("{value:?} must be an integer")),
            },
            ("Gt" | "Lt", _) => bad("must have exactly one value"),
            (other, _) => Err((
                "operator",
                format!("{other:?} is not an operator; use In, NotIn, Exists, DoesNotExist, Gt or Lt"),
            )),
        }
    }

    /// As `read`, for `matchFields`, which know one field and two operators.
    fn read_field(requirement: &'a NodeSelectorRequirement) -> Result<Self, (&'static str, String)> {
        if requirement.key != NAME_FIELD {
            return Err(("key", format!("{:?} cannot be selected by; use {NAME_FIELD}", requirement.key)));
        }
        match Self::read(requirement)? {
            operator @ (Self::In([_]) | Self::NotIn([_])) => Ok(operator),
            Self::In(_) | Self::NotIn(_) => {
                Err(("values", format!("must have exactly one value with operator {}", requirement.operator)))
            }
            _ => Err(("operator", format!("{:?} cannot be used on a field; use In or NotIn", requirement.operator))),
        }
    }

    /// Whether a label with this value, or no such label, is what the operator asks for.
    fn is_met_by(&self, found: Option<&str>) -> bool {
        let listed = |values: &[String]| found.is_some_and(|found| values.iter().any(|value| value == found));
        let number = || found.and_then(|found| found.parse::<i64>().ok());
        match self {
            Self::In(values) => listed(values),
            Self::NotIn(values) => !listed(values),
            Self::Exists => found.is_some(),
            Self::DoesNotExist => found.is_none(),
            Self::Gt(bound) => number().is_some_and(|number| number > *bound),
            Self::Lt(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}
