//! Kubernetes quantities: `100m`, `1.5Gi`, `2e3`.
//!
//! Exact decimal numbers in steps of 10⁻⁹, with the family of suffixes they were written with.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Add;
use std::str::FromStr;

const NANOS_PER_UNIT: i128 = 1_000_000_000;
const NANOS_PER_MILLI: i128 = 1_000_000;

/// The largest magnitude; what is larger is taken as this.
const MAX_NANOS: i128 = i64::MAX as i128 * NANOS_PER_UNIT;

/// Suffixes of powers of ten, by exponent.
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
/// Suffixes of powers of 1024, by exponent, starting at 1.
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

/// An amount of a resource.
///
/// Finer than 10⁻⁹ is rounded away from zero, larger than 2⁶³−1 is cut to that. Equality and order are of the
/// amounts: `1Gi` equals `1024Mi`. `Display` is the canonical form: no fraction, the largest suffix of the family; what binary
/// suffixes could not say exactly has decimal ones.
///
/// Source: kubernetes v1.36, `k8s.io/apimachinery/pkg/api/resource/quantity.go`.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    family: Family,
}

/// The suffixes a quantity was written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// `n u m k M G T P E`, or none.
    Decimal,
    /// `e<exponent>`.
    Exponent,
    /// `Ki Mi Gi Ti Pi Ei`.
    Binary,
}

/// The text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadQuantity {
    /// Not number, then suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The letters after the number are no suffix.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, family: Family::Decimal };

    /// Whole units.
    pub fn from_units(units: i64) -> Self {
        Self { nanos: i128::from(units) * NANOS_PER_UNIT, family: Family::Decimal }
    }

    /// Bytes, printed with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Self { family: Family::Binary, ..Self::from_units(bytes) }
    }

    /// Thousandths, as CPU is counted.
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * NANOS_PER_MILLI, family: Family::Decimal }
    }

    /// Thousand millionths, as CPU is measured.
    pub fn from_nanos(nanos: u64) -> Self {
        Self { nanos: i128::from(nanos).min(MAX_NANOS), family: Family::Decimal }
    }

    /// Whole units, rounded away from zero.
    pub fn value(self) -> i64 {
        saturate(divide_away_from_zero(self.nanos, NANOS_PER_UNIT))
    }

    /// Thousandths, rounded away from zero and cut to what an `i64` holds.
    pub fn milli_value(self) -> i64 {
        saturate(divide_away_from_zero(self.nanos, NANOS_PER_MILLI))
    }

    /// No fraction of a unit.
    pub fn is_integer(self) -> bool {
        self.nanos % NANOS_PER_UNIT == 0
    }

    /// Neither more nor less than nothing.
    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    /// Below zero.
    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    /// The same amount without anything finer than thousandths, rounded away from zero.
    #[must_use]
    pub fn rounded_to_milli(self) -> Self {
        Self { nanos: divide_away_from_zero(self.nanos, NANOS_PER_MILLI) * NANOS_PER_MILLI, ..self }
    }
}

fn divide_away_from_zero(nanos: i128, by: i128) -> i128 {
    nanos / by + if nanos % by == 0 { 0 } else { nanos.signum() }
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Add for Quantity {
    type Output = Self;

    /// The sum, in the family of the left side unless that is zero; cut like a parsed one.
    fn add(self, other: Self) -> Self {
        let family = if self.is_zero() { other.family } else { self.family };
        Self { nanos: (self.nanos + other.nanos).clamp(-MAX_NANOS, MAX_NANOS), family }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(quantities: I) -> Self {
        quantities.fold(Self::ZERO, Self::add)
    }
}

// === text ===

impl FromStr for Quantity {
    type Err = BadQuantity;

    fn from_str(text: &str) -> Result<Self, BadQuantity> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let suffix_at = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(suffix_at);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(BadQuantity::Format);
        }
        let (family, factor) = parse_suffix(suffix)?;
        let nanos = magnitude(whole, fraction, factor);
        // As upstream: a binary fraction such as 0.5Ki stays exact, but less than one byte prints in decimal.
        let family = if family == Family::Binary && nanos < NANOS_PER_UNIT { Family::Decimal } else { family };
        Ok(Self { nanos: if negative { -nanos } else { nanos }, family })
    }
}

/// What the digits are multiplied by.
#[derive(Clone, Copy)]
enum Factor {
    /// A power of ten.
    Ten(i32),
    /// A power of 1024.
    Binary(u32),
}

fn parse_suffix(suffix: &str) -> Result<(Family, Factor), BadQuantity> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Ok((Family::Decimal, Factor::Ten(*exponent)));
    }
    if let Some(index) = BINARY.iter().position(|name| *name == suffix) {
        return Ok((Family::Binary, Factor::Binary(u32::try_from(index).expect("six suffixes") + 1)));
    }
    if suffix.contains(|c: char| !"eEinumkKMGTP+-0123456789".contains(c)) {
        return Err(BadQuantity::Format);
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(BadQuantity::Suffix)?;
    let exponent: i32 = exponent.parse().map_err(|_| BadQuantity::Suffix)?;
    Ok((Family::Exponent, Factor::Ten(exponent)))
}

/// The digits times the factor, in nanos: rounded up, at most [`MAX_NANOS`].
fn magnitude(whole: &str, fraction: &str, factor: Factor) -> i128 {
    // So many digits times the multiplier fit an i128; what is beyond them only rounds up.
    let (exponent, multiplier, significant) = match factor {
        Factor::Ten(exponent) => (i64::from(exponent), 1, 37),
        Factor::Binary(power) => (0, 1024_i128.pow(power), 19),
    };
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    let (head, rest) = digits.split_at(digits.len().min(significant));
    let head: i128 = head.parse().expect("at most 37 digits");
    let length = |digits: &str| i64::try_from(digits.len()).unwrap_or(i64::MAX);
    let power = exponent.saturating_add(9).saturating_sub(length(fraction)).saturating_add(length(rest));
    scale(head, multiplier, power, rest.bytes().any(|digit| digit != b'0')).min(MAX_NANOS)
}

/// `head * multiplier * 10^power`, rounded up; `rest` says that something smaller was cut from `head`.
fn scale(head: i128, multiplier: i128, power: i64, rest: bool) -> i128 {
    let product = head.saturating_mul(multiplier);
    let ten = |power: i64| 10_i128.checked_pow(u32::try_from(power).unwrap_or(u32::MAX)).unwrap_or(i128::MAX);
    if power >= 0 {
        return product.saturating_mul(ten(power)).saturating_add(i128::from(rest));
    }
    let divisor = ten(-power);
    product / divisor + i128::from(product % divisor != 0 || rest)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        if self.family == Family::Binary && self.is_integer() && self.nanos.abs() >= 1024 * NANOS_PER_UNIT {
            let mut amount = self.nanos / NANOS_PER_UNIT;
            let mut suffix = "";
            for larger in BINARY {
                if amount % 1024 != 0 {
                    break;
                }
                (amount, suffix) = (amount / 1024, larger);
            }
            return write!(f, "{amount}{suffix}");
        }
        let mut amount = self.nanos;
        let mut suffixes = DECIMAL.iter();
        let (mut suffix, mut exponent) = ("n", -9);
        suffixes.next();
        for (larger, larger_exponent) in suffixes {
            if amount % 1000 != 0 {
                break;
            }
            (amount, suffix, exponent) = (amount / 1000, *larger, *larger_exponent);
        }
        match (self.family, exponent) {
            (Family::Exponent, 0) => write!(f, "{amount}"),
            (Family::Exponent, exponent) => write!(f, "{amount}e{exponent}"),
            _ => write!(f, "{amount}{suffix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().map_or_else(|error| error.to_string(), |quantity| quantity.to_string())
    }

    #[test]
    fn quantities_print_in_canonical_form() {
        for (text, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("0Ki", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("1.", "1"),
            (".5", "500m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("0.1", "100m"),
            ("1500", "1500"),
            ("2000k", "2M"),
            ("1.5Gi", "1536Mi"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("0.5Ki", "512"),
            ("0.0001Ki", "102400u"),
            ("1.5Ki", "1536"),
            ("6.754Ti", "7426101533999104m"),
            ("1000.9765625Ki", "1025000"),
            ("1025000", "1025k"),
            ("1Ei", "1Ei"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12e-3", "12e-3"),
            ("1200e1", "12e3"),
            ("1E", "1E"),
            ("-1.5Gi", "-1536Mi"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("-0.1n", "-1n"),
            ("1e-40", "1e-9"),
            ("1.0000000000000000001", "1000000001n"),
            ("8Ei", "9223372036854775807"),
            ("1e99999", "9223372036854775807"),
            ("99999999999999999999999999999999999999999999", "9223372036854775807"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "-", ".", "Ki", "1.1.1", " 1", "1 ", "1q", "--1", "ä", "1,5"] {
            assert_eq!(text.parse::<Quantity>(), Err(BadQuantity::Format), "{text:?}");
        }
        for text in ["1i", "1K", "1mi", "1e", "1e+", "1e3.0", "1KiKi", "1-", "1+1", "1e99999999999"] {
            assert!(text.parse::<Quantity>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn amounts_compare_add_and_round_away_from_zero() {
        let quantity = |text: &str| text.parse::<Quantity>().expect("a quantity");
        assert_eq!(quantity("1Gi"), quantity("1024Mi"));
        assert!(quantity("1G") < quantity("1Gi"));
        assert_eq!((quantity("100m") + quantity("0.9")).to_string(), "1");
        assert_eq!([quantity("512Mi"), quantity("1Gi")].into_iter().sum::<Quantity>().to_string(), "1536Mi");
        assert_eq!((quantity("100m").value(), quantity("-100m").value()), (1, -1));
        assert_eq!((quantity("1u").milli_value(), quantity("9E").milli_value()), (1, i64::MAX));
        assert_eq!(quantity("1.0001").rounded_to_milli().to_string(), "1001m");
        assert!(quantity("1Gi").is_integer() && !quantity("1500m").is_integer());
    }

    proptest! {
        #[test]
        fn the_canonical_form_reads_back_as_the_same_amount(
            number in "[+-]?[0-9]{1,12}(\\.[0-9]{0,12})?",
            suffix in "(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][+-]?[0-9]{1,2})?",
        ) {
            let quantity: Quantity = format!("{number}{suffix}").parse().expect("a quantity");
            let again: Quantity = quantity.to_string().parse().expect("canonical form");
            prop_assert_eq!(again, quantity);
            // What needs no suffix does not tell its family; from then on the form stays.
            let settled: Quantity = again.to_string().parse().expect("canonical form");
            prop_assert_eq!(settled.to_string(), again.to_string());
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,12}|[-+0-9.eEinumkKMGTP]{0,60}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
