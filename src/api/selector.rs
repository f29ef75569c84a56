//! Label selectors and field selectors: from the API's form, from a query string, to text.

use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::field::{FieldError, Path, aggregate};
use super::names;

/// Labels that must all be met. Without requirements it selects everything.
///
/// `Display` is the form of a query string, requirements by key.
///
/// Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/labels/selector.go`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selector(Vec<Requirement>);

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// The label's key.
    pub key: String,
    /// What must hold for it.
    pub operator: Operator,
    /// What it is compared with, sorted and without repeats: one for `=`, `!=`, `<` and `>`, any number for the
    /// set operators, none for the others.
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// `key=value`
    Equals,
    /// `key!=value`: the key may be absent.
    NotEquals,
    /// `key in (a,b)`
    In,
    /// `key notin (a,b)`: the key may be absent.
    NotIn,
    /// `key`
    Exists,
    /// `!key`
    DoesNotExist,
    /// `key>n`: both are integers.
    GreaterThan,
    /// `key<n`: both are integers.
    LessThan,
}

/// The text or object is no selector.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum BadSelector {
    /// A requirement of a label selector does not parse.
    #[error("unable to parse requirement: {0}")]
    Requirement(String),
    /// Between requirements of a label selector stands something else than a comma.
    #[error("found '{found}', expected: {expected}")]
    Syntax {
        /// The word found.
        found: String,
        /// What could stand there.
        expected: &'static str,
    },
    /// A term of a field selector has no operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole text.
        selector: String,
        /// The part in question.
        term: String,
    },
    /// The kind has no such field selector.
    #[error("field label not supported: {0}")]
    UnknownField(String),
    /// A `LabelSelector` object breaks the rules for its requirements.
    #[error("{0:?} is not a valid label selector operator")]
    Operator(String),
}

impl Selector {
    /// From the form objects have it in. `matchLabels` and `matchExpressions` must all hold.
    ///
    /// # Errors
    /// [`BadSelector::Operator`] for an operator that the API does not have; the other rules are those of
    /// validation, and a selector that breaks them matches as its operators say.
    pub fn from_object(selector: &LabelSelector) -> Result<Self, BadSelector> {
        let mut requirements: Vec<Requirement> = selector
            .match_labels
            .iter()
            .flatten()
            .map(|(key, value)| Requirement::new(key, Operator::Equals, vec![value.clone()]))
            .collect();
        for expression in selector.match_expressions.iter().flatten() {
            let operator = match expression.operator.as_str() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => return Err(BadSelector::Operator(other.to_owned())),
            };
            let values = expression.values.clone().unwrap_or_default();
            requirements.push(Requirement::new(&expression.key, operator, values));
        }
        Ok(Self::by_key(requirements))
    }

    /// From a query string: `a=b,c in (d,e),!f`. Empty text selects everything.
    ///
    /// # Errors
    /// In upstream's words, naming what was found and what could have stood there.
    pub fn parse(text: &str) -> Result<Self, BadSelector> {
        let mut parser = Parser { tokens: tokens(text), next: 0 };
        let mut requirements = Vec::new();
        loop {
            match parser.peek() {
                Token::End => break,
                Token::Word(_) | Token::Symbol("!") => requirements.push(parser.requirement()?),
                other => return Err(syntax(other, "!, identifier, or 'end of string'")),
            }
            match parser.take() {
                Token::End => break,
                Token::Symbol(",") => match parser.peek() {
                    Token::Word(_) | Token::Symbol("!") => {}
                    other => return Err(syntax(other, "identifier after ','")),
                },
                other => return Err(syntax(other, "',' or 'end of string'")),
            }
        }
        Ok(Self::by_key(requirements))
    }

    fn by_key(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self(requirements)
    }

    /// Every requirement is met by `labels`.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }

    /// It selects everything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A selector as `kubectl` shows it in a table: `<none>` for one without requirements, `<error>` for a broken one.
pub fn format_object(selector: &LabelSelector) -> String {
    match Selector::from_object(selector) {
        Ok(selector) if selector.is_empty() => "<none>".to_owned(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".to_owned(),
    }
}

impl Requirement {
    fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Self {
        values.sort();
        values.dedup();
        Self { key: key.to_owned(), operator, values }
    }

    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let label = labels.get(&self.key);
        let listed = label.is_some_and(|value| self.values.contains(value));
        match self.operator {
            Operator::Equals | Operator::In => listed,
            Operator::NotEquals | Operator::NotIn => !listed,
            Operator::Exists => label.is_some(),
            Operator::DoesNotExist => label.is_none(),
            Operator::GreaterThan => self.integers(label).is_some_and(|(label, bound)| label > bound),
            Operator::LessThan => self.integers(label).is_some_and(|(label, bound)| label < bound),
        }
    }

    fn integers(&self, label: Option<&String>) -> Option<(i64, i64)> {
        Some((label?.parse().ok()?, self.values.first()?.parse().ok()?))
    }

    /// The rules a requirement from a query string must keep.
    fn check(&self) -> Result<(), BadSelector> {
        let mut errors = Vec::new();
        let values = Path::new("values");
        for (index, value) in self.values.iter().enumerate() {
            if matches!(self.operator, Operator::GreaterThan | Operator::LessThan) && value.parse::<i64>().is_err() {
                let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                errors.push(FieldError::invalid(&values.index(index), value.as_str(), detail));
            }
            let messages = names::label_value(value);
            if !messages.is_empty() {
                let path = values.index(index).key(&self.key);
                errors.push(FieldError::invalid(&path, value.as_str(), messages.join("; ")));
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(BadSelector::Requirement(aggregate(&errors))) }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

// === parsing a query string ===

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Symbol(&'a str),
    End,
}

fn syntax(found: Token<'_>, expected: &'static str) -> BadSelector {
    let found = match found {
        Token::Word(text) | Token::Symbol(text) => text.to_owned(),
        Token::End => String::new(),
    };
    BadSelector::Syntax { found, expected }
}

fn tokens(text: &str) -> Vec<Token<'_>> {
    const SYMBOLS: [char; 7] = ['=', '!', '(', ')', ',', '>', '<'];
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if SYMBOLS.contains(&first) {
            if rest.starts_with("==") || rest.starts_with("!=") { 2 } else { 1 }
        } else {
            rest.find(|c: char| SYMBOLS.contains(&c) || c.is_ascii_whitespace()).unwrap_or(rest.len())
        };
        let (token, after) = rest.split_at(length);
        tokens.push(if SYMBOLS.contains(&first) { Token::Symbol(token) } else { Token::Word(token) });
        rest = after.trim_start();
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<Token<'a>>,
    next: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Token<'a> {
        self.tokens.get(self.next).copied().unwrap_or(Token::End)
    }

    fn take(&mut self) -> Token<'a> {
        let token = self.peek();
        self.next += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, BadSelector> {
        let in_requirement = |error: BadSelector| match error {
            BadSelector::Syntax { .. } => BadSelector::Requirement(error.to_string()),
            other => other,
        };
        let requirement = self.bare_requirement().map_err(in_requirement)?;
        requirement.check()?;
        Ok(requirement)
    }

    fn bare_requirement(&mut self) -> Result<Requirement, BadSelector> {
        let negated = self.peek() == Token::Symbol("!");
        if negated {
            self.take();
        }
        let key = match self.take() {
            Token::Word(key) => key,
            other => return Err(syntax(other, "identifier")),
        };
        let messages = names::qualified_name(key);
        if !messages.is_empty() {
            // Upstream has no path to print here and prints its absence.
            let error = FieldError::invalid(&Path::new("<nil>"), key, messages.join("; "));
            return Err(BadSelector::Requirement(error.to_string()));
        }
        if negated {
            return Ok(Requirement::new(key, Operator::DoesNotExist, Vec::new()));
        }
        if matches!(self.peek(), Token::End | Token::Symbol(",")) {
            return Ok(Requirement::new(key, Operator::Exists, Vec::new()));
        }
        let operator = match self.take() {
            Token::Symbol("=" | "==") => Operator::Equals,
            Token::Symbol("!=") => Operator::NotEquals,
            Token::Symbol(">") => Operator::GreaterThan,
            Token::Symbol("<") => Operator::LessThan,
            Token::Word("in") => Operator::In,
            Token::Word("notin") => Operator::NotIn,
            other => return Err(syntax(other, "in, notin, =, ==, !=, gt, lt")),
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.set()?,
            _ => vec![self.value()?],
        };
        Ok(Requirement::new(key, operator, values))
    }

    /// The one value after `=` and its like; nothing there is the empty string.
    fn value(&mut self) -> Result<String, BadSelector> {
        match self.peek() {
            Token::End | Token::Symbol(",") => Ok(String::new()),
            _ => match self.take() {
                Token::Word(value) => Ok(value.to_owned()),
                other => Err(syntax(other, "identifier")),
            },
        }
    }

    /// `(a,b)`. An empty place between parentheses and commas is the empty string.
    fn set(&mut self) -> Result<Vec<String>, BadSelector> {
        match self.take() {
            Token::Symbol("(") => {}
            other => return Err(syntax(other, "'('")),
        }
        let mut values = Vec::new();
        loop {
            match self.peek() {
                Token::Word(value) => {
                    self.take();
                    values.push(value.to_owned());
                }
                _ => values.push(String::new()),
            }
            match self.take() {
                Token::Symbol(",") => {}
                Token::Symbol(")") => return Ok(values),
                other => return Err(syntax(other, "',' or ')'")),
            }
        }
    }
}

// === field selectors ===

/// One condition of a field selector.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldTerm {
    /// The field as the user wrote it: `metadata.name`, `status.phase`.
    pub key: String,
    /// Equal, or else unequal.
    pub equal: bool,
    /// What the field is compared with.
    pub value: String,
}

/// Fields that must all compare as asked. Without terms it selects everything.
///
/// Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/fields/selector.go`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSelector(pub Vec<FieldTerm>);

impl FieldSelector {
    /// From a query string: `=`, `==` and `!=`, joined by commas; `\` before `\`, `,` or `=` takes them as they are.
    ///
    /// # Errors
    /// [`BadSelector::Term`] for a part without operator.
    pub fn parse(text: &str) -> Result<Self, BadSelector> {
        let mut terms = Vec::new();
        for part in split_unescaped(text) {
            if part.is_empty() {
                continue;
            }
            let bad = || BadSelector::Term { selector: text.to_owned(), term: part.to_owned() };
            let (key, equal, value) = split_term(part).ok_or_else(bad)?;
            let value = unescaped(value).ok_or_else(bad)?;
            terms.push(FieldTerm { key: key.to_owned(), equal, value });
        }
        Ok(Self(terms))
    }

    /// Says whether an object is selected. `lookup` gives the value of a field, `None` when the kind does not offer it.
    ///
    /// # Errors
    /// [`BadSelector::UnknownField`] for a field the kind does not offer, whatever the other terms say.
    pub fn matches(&self, lookup: impl Fn(&str) -> Option<String>) -> Result<bool, BadSelector> {
        let mut all = true;
        for term in &self.0 {
            let value = lookup(&term.key).ok_or_else(|| BadSelector::UnknownField(term.key.clone()))?;
            all &= (value == term.value) == term.equal;
        }
        Ok(all)
    }
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (index, c) in text.char_indices() {
        if c == ',' && !escaped {
            parts.push(&text[start..index]);
            start = index + 1;
        }
        escaped = c == '\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts
}

/// Key, equal or not, and value still escaped. The first operator counts.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    let at = term.find(['=', '!'])?;
    let (key, rest) = term.split_at(at);
    if let Some(value) = rest.strip_prefix("!=") {
        return Some((key, false, value));
    }
    rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')).map(|value| (key, true, value))
}

fn unescaped(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.push(chars.next().filter(|next| matches!(next, '\\' | ',' | '='))?),
            '=' | ',' => return None,
            c => plain.push(c),
        }
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_selector_prints_in_one_form_and_matches() {
        let (web, db) = (labels(&[("app", "web"), ("n", "5")]), labels(&[("app", "db"), ("gone", "")]));
        for (text, printed, matches) in [
            ("", "", [true, true]),
            (" app = web ", "app=web", [true, false]),
            ("app==web", "app=web", [true, false]),
            ("app!=web", "app!=web", [false, true]),
            ("none!=x", "none!=x", [true, true]),
            ("app in (web, db,web)", "app in (db,web)", [true, true]),
            ("app notin (web)", "app notin (web)", [false, true]),
            ("gone in ()", "gone in ()", [false, true]),
            ("gone=", "gone=", [false, true]),
            ("n", "n", [true, false]),
            ("!n", "!n", [false, true]),
            ("n>4", "n>4", [true, false]),
            ("n<5", "n<5", [false, false]),
            ("n,app=web", "app=web,n", [true, false]),
            ("in in (in)", "in in (in)", [false, false]),
        ] {
            let selector = Selector::parse(text).expect(text);
            assert_eq!(selector.to_string(), printed);
            assert_eq!([selector.matches(&web), selector.matches(&db)], matches, "{text}");
        }
    }

    #[test]
    fn a_broken_selector_is_refused_in_kubectls_words() {
        for (text, message) in [
            (",a", "found ',', expected: !, identifier, or 'end of string'"),
            ("a,", "found '', expected: identifier after ','"),
            ("a=b c", "found 'c', expected: ',' or 'end of string'"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("!", "unable to parse requirement: found '', expected: identifier"),
            ("a in b", "unable to parse requirement: found 'b', expected: '('"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            ("a=(", "unable to parse requirement: found '(', expected: identifier"),
            (
                "a>b",
                "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, the value must be an \
                 integer",
            ),
        ] {
            assert_eq!(Selector::parse(text).expect_err(text).to_string(), message, "{text}");
        }
        let message = Selector::parse("-a=b").expect_err("bad key").to_string();
        assert!(message.starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must"));
    }

    #[test]
    fn a_selector_object_is_all_of_its_parts() {
        let object = |value| serde_json::from_value::<LabelSelector>(value).expect("a selector");
        let both = object(json!({
            "matchLabels": {"b": "1"},
            "matchExpressions": [{"key": "a", "operator": "Exists"}, {"key": "c", "operator": "NotIn", "values": ["y", "x"]}],
        }));
        assert_eq!(format_object(&both), "a,b=1,c notin (x,y)");
        let selector = Selector::from_object(&both).expect("a selector");
        assert!(selector.matches(&labels(&[("a", ""), ("b", "1")])));
        assert!(!selector.matches(&labels(&[("b", "1")])));
        assert_eq!(format_object(&object(json!({}))), "<none>");
        assert_eq!(format_object(&object(json!({"matchExpressions": [{"key": "a", "operator": "Gt"}]}))), "<error>");
    }

    #[test]
    fn a_field_selector_compares_what_the_kind_offers() {
        let term = |key: &str, equal, value: &str| FieldTerm { key: key.into(), equal, value: value.into() };
        let selector = FieldSelector::parse(r"metadata.name=a\,b\=c,status.phase!=Failed,,x==").expect("a selector");
        assert_eq!(
            selector.0,
            [term("metadata.name", true, "a,b=c"), term("status.phase", false, "Failed"), term("x", true, "")]
        );
        let lookup = |key: &str| Some(if key == "metadata.name" { "a,b=c".to_owned() } else { String::new() });
        assert_eq!(selector.matches(lookup), Ok(true));
        assert_eq!(selector.matches(|_| Some("Failed".to_owned())), Ok(false));
        assert_eq!(
            selector.matches(|_| None).expect_err("unknown").to_string(),
            "field label not supported: metadata.name"
        );
        for text in ["a", "a=b=c", r"a=\x", "a!b"] {
            assert!(FieldSelector::parse(text).is_err(), "{text}");
        }
    }
}
