//! Text in which the pod's addresses may still be open.

use std::net::IpAddr;

/// Text that is whole except, perhaps, for addresses the pod gets with its sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Text(Vec<Part>);

/// A piece of a [`Text`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// As it is.
    Literal(String),
    /// `status.podIP`: the first address.
    PodIp,
    /// `status.podIPs`: all addresses, joined by commas.
    PodIps,
}

impl Text {
    /// The text for a sandbox with these addresses (of a pod with the host's network: the host's), first one first.
    pub fn bind(&self, pod_ips: &[IpAddr]) -> String {
        let mut bound = String::new();
        for part in &self.0 {
            match part {
                Part::Literal(text) => bound.push_str(text),
                Part::PodIp => bound.extend(pod_ips.first().map(ToString::to_string)),
                Part::PodIps => bound.push_str(&pod_ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
            }
        }
        bound
    }

    /// Appends a piece; literals next to each other become one.
    pub fn push(&mut self, part: Part) {
        match (self.0.last_mut(), part) {
            (_, Part::Literal(text)) if text.is_empty() => {}
            (Some(Part::Literal(before)), Part::Literal(text)) => before.push_str(&text),
            (_, part) => self.0.push(part),
        }
    }

    /// Appends another text.
    pub fn push_text(&mut self, other: &Self) {
        for part in &other.0 {
            self.push(part.clone());
        }
    }
}

impl From<Part> for Text {
    fn from(part: Part) -> Self {
        let mut text = Self::default();
        text.push(part);
        text
    }
}

impl From<&str> for Text {
    fn from(literal: &str) -> Self {
        Part::Literal(literal.to_owned()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_filled_in_when_they_are_known() {
        let mut text = Text::from("at ");
        text.push(Part::PodIp);
        text.push_text(&" of ".into());
        text.push(Part::PodIps);
        let ips = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
        assert_eq!(text.bind(&ips), "at 10.0.0.7 of 10.0.0.7,fd00::7");
        assert_eq!(text.bind(&[]), "at  of ");
    }

    #[test]
    fn equal_texts_are_equal_however_they_were_put_together() {
        let mut text = Text::from("a");
        text.push_text(&"".into());
        text.push_text(&"b".into());
        assert_eq!(text, "ab".into());
        assert_eq!(Text::default(), "".into());
    }
}
