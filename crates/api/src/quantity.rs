//! Quantities: `100m`, `1.5Gi`, `1e3`. Exact to the nano, up to 2⁶³ − 1, printed in upstream's canonical form.
//!
//! Values are kept as a whole number of nanos, which holds everything that `k8s.io/apimachinery/pkg/api/resource` accepts after its own
//! rounding: finer parts are rounded away from zero, larger values are capped.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde_json::Value;
use thiserror::Error;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = (i64::MAX as i128) * NANO;

/// An amount and the family of suffixes that it was written with. Compares by amount.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// How a quantity likes to be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    DecimalSi,
}

/// Not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QuantityError {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// A whole number in the decimal family.
    pub fn from_units(units: i64) -> Self {
        Quantity { nanos: i128::from(units) * NANO, format: Format::DecimalSi }
    }

    /// So many thousandths.
    pub fn from_milli(milli: i64) -> Self {
        Quantity { nanos: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// A count of bytes, printed with binary suffixes.
    pub fn from_bytes(bytes: i64) -> Self {
        Quantity { nanos: i128::from(bytes) * NANO, format: Format::BinarySi }
    }

    /// From JSON: a string, or a number as some write it; null is zero.
    pub fn from_value(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::Null => Ok(Quantity::from_units(0)),
            Value::String(text) => text.trim().parse(),
            Value::Number(number) => number.to_string().parse(),
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(QuantityError::Format),
        }
    }

    /// Rounded up to whole units.
    pub fn value(self) -> i64 {
        self.scaled(NANO)
    }

    /// Rounded up to thousandths; capped.
    pub fn milli_value(self) -> i64 {
        self.scaled(NANO / 1000)
    }

    pub fn is_zero(self) -> bool {
        self.nanos == 0
    }

    pub fn is_negative(self) -> bool {
        self.nanos < 0
    }

    pub fn format(self) -> Format {
        self.format
    }

    fn scaled(self, unit: i128) -> i64 {
        let rounded = round_away(self.nanos, unit);
        i64::try_from(rounded).unwrap_or(if rounded < 0 { i64::MIN } else { i64::MAX })
    }

    fn combined(self, nanos: i128, other: Self) -> Self {
        let format = if self.nanos == 0 { other.format } else { self.format };
        Quantity { nanos: nanos.clamp(-MAX, MAX), format }
    }
}

impl Add for Quantity {
    type Output = Quantity;

    fn add(self, other: Self) -> Self {
        self.combined(self.nanos + other.nanos, other)
    }
}

impl Sub for Quantity {
    type Output = Quantity;

    fn sub(self, other: Self) -> Self {
        self.combined(self.nanos - other.nanos, other)
    }
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

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if number.is_empty() || part.contains('.') || !is_suffix(suffix) {
            return Err(QuantityError::Format);
        }
        if whole.is_empty() && part.is_empty() {
            return Err(QuantityError::Numeric);
        }
        let (base, exponent, format) = suffix_scale(suffix).ok_or(QuantityError::Suffix)?;
        let amount = amount(whole, part, base, exponent);
        Ok(Quantity { nanos: if negative { -amount } else { amount }, format })
    }
}

/// Letters of the suffix alphabet, then perhaps a signed number.
fn is_suffix(suffix: &str) -> bool {
    let rest = suffix.trim_start_matches(|c: char| "eEinumkKMGTP".contains(c));
    let digits = rest.strip_prefix(['-', '+']).unwrap_or(rest);
    digits.bytes().all(|byte| byte.is_ascii_digit())
}

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];

/// Base, exponent and family of a suffix.
fn suffix_scale(suffix: &str) -> Option<(i128, i32, Format)> {
    if let Some((_, exponent)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((10, *exponent, Format::DecimalSi));
    }
    if let Some(power) = BINARY.iter().position(|name| *name == suffix) {
        return Some((1024, i32::try_from(power).ok()?, Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
    Some((10, exponent, Format::DecimalExponent))
}

/// `whole.part × base^exponent` in nanos, capped, and rounded up where it is finer.
fn amount(whole: &str, part: &str, base: i128, exponent: i32) -> i128 {
    let part = part.trim_end_matches('0');
    let digits = format!("{whole}{part}");
    let digits = digits.trim_start_matches('0');
    if digits.is_empty() {
        return 0;
    }
    let (binary, decimal) = if base == 1024 { (exponent, 0) } else { (0, exponent) };
    // In nanos, the last digit stands for 10^scale.
    let scale = i64::from(decimal) + 9 - i64::try_from(part.len()).unwrap_or(i64::MAX / 2);
    let magnitude = i64::try_from(digits.len()).unwrap_or(i64::MAX / 2) + scale;
    if magnitude > 28 {
        return MAX;
    }
    if magnitude < -20 {
        return 1;
    }
    // Digits beyond 30 are far below a nano here: one that is not zero rounds up.
    let kept: i128 = digits.get(..30).unwrap_or(digits).parse().unwrap_or(MAX);
    let dropped = digits.get(30..).unwrap_or("");
    let kept = kept + i128::from(dropped.bytes().any(|byte| byte != b'0'));
    let scale = scale + i64::try_from(dropped.len()).unwrap_or(0);
    let Some(kept) = 1024i128.checked_pow(binary.unsigned_abs()).and_then(|factor| kept.checked_mul(factor)) else {
        return MAX;
    };
    let power = u32::try_from(scale.unsigned_abs()).ok().and_then(|scale| 10i128.checked_pow(scale));
    let nanos = match (power, scale >= 0) {
        (Some(power), true) => kept.checked_mul(power).unwrap_or(MAX),
        (Some(power), false) => round_away(kept, power),
        (None, true) => MAX,
        (None, false) => 1,
    };
    nanos.min(MAX)
}

/// Division that rounds away from zero.
fn round_away(value: i128, unit: i128) -> i128 {
    let quotient = value / unit;
    if value % unit == 0 { quotient } else { quotient + value.signum() }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let whole = self.nanos % NANO == 0;
        // Small and fractional amounts would lose their meaning in Ki: upstream prints them in the decimal family.
        if self.format == Format::BinarySi && whole && self.nanos.abs() >= 1024 * NANO {
            let mut value = self.nanos / NANO;
            let mut suffixes = BINARY.iter();
            let mut suffix = suffixes.next().copied().unwrap_or_default();
            while value % 1024 == 0 {
                let Some(next) = suffixes.next() else { break };
                value /= 1024;
                suffix = next;
            }
            return write!(f, "{value}{suffix}");
        }
        let mut value = self.nanos;
        let mut exponent = -9;
        while value % 1000 == 0 && exponent < 18 {
            value /= 1000;
            exponent += 3;
        }
        match self.format {
            Format::DecimalExponent if exponent == 0 => write!(f, "{value}"),
            Format::DecimalExponent => write!(f, "{value}e{exponent}"),
            Format::BinarySi | Format::DecimalSi => {
                let suffix = DECIMAL.iter().find(|(_, of)| *of == exponent).map_or("", |(name, _)| name);
                write!(f, "{value}{suffix}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(written: &str, canonical: &str) {
        assert_eq!(written.parse::<Quantity>().unwrap().to_string(), canonical, "{written}");
    }

    #[test]
    fn canonical_forms() {
        for (written, canonical) in [
            ("0", "0"),
            ("0n", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("0.1", "100m"),
            ("1.5", "1500m"),
            ("1500", "1500"),
            ("1000", "1k"),
            ("1024Ki", "1Mi"),
            ("1.5Gi", "1536Mi"),
            ("128Mi", "128Mi"),
            ("1000Ki", "1000Ki"),
            ("0.5Ki", "512"),
            ("0.5Mi", "512Ki"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1E", "1E"),
            ("12e-3", "12e-3"),
            ("1e1", "10"),
            ("-1.25", "-1250m"),
            ("+5", "5"),
            ("0.0000000001", "1n"),
            ("9999999999999999999999", "9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            (".5", "500m"),
            ("5.", "5"),
        ] {
            check(written, canonical);
        }
    }

    #[test]
    fn faults_are_upstreams() {
        for (written, error) in [
            ("", QuantityError::Format),
            ("1XB", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("abc", QuantityError::Format),
            (".", QuantityError::Numeric),
            ("1mm", QuantityError::Suffix),
            ("1K", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
        ] {
            assert_eq!(written.parse::<Quantity>(), Err(error), "{written}");
        }
    }

    #[test]
    fn amounts_compare_and_add_across_families() {
        let parse = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(parse("1Ki"), parse("1024"));
        assert!(parse("2Mi") > parse("2M"));
        assert_eq!((parse("1Gi") + parse("1Mi")).to_string(), "1025Mi");
        assert_eq!((parse("1") - parse("1500m")).to_string(), "-500m");
        assert_eq!((parse("0") + parse("1Mi")).to_string(), "1Mi");
        assert_eq!((parse("1500m").value(), parse("1500m").milli_value()), (2, 1500));
        assert_eq!(Quantity::from_value(&2.into()).unwrap(), parse("2"));
    }

    proptest! {
        #[test]
        fn printing_is_the_identity_of_the_amount(nanos in -MAX..MAX, family in 0..3) {
            let format = [Format::DecimalExponent, Format::BinarySi, Format::DecimalSi][family as usize];
            let quantity = Quantity { nanos, format };
            prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
        }

        #[test]
        fn no_text_panics(text in "[-+0-9.eEinumkKMGTPx]{0,60}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
