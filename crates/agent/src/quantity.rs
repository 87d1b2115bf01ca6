//! Amounts of cpu and memory as exact integers: what cgroups and the downward API are given.
//!
//! Milli-units are kept, because nothing below a thousandth of a core or byte reaches the kernel; upstream rounds up too.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// An amount in thousandths, rounded up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Milli(pub i128);

impl Milli {
    /// Whole units, rounded up.
    pub fn units(self) -> i64 {
        i64::try_from(self.divided_by(Milli(1000))).unwrap_or(i64::MAX)
    }

    /// How many times `divisor` fits, rounded up; a divisor of nothing counts as one unit.
    pub fn divided_by(self, divisor: Milli) -> i128 {
        let divisor = if divisor.0 == 0 { 1000 } else { divisor.0 };
        self.0.div_euclid(divisor) + i128::from(self.0.rem_euclid(divisor) != 0)
    }
}

/// The amount that `quantity` says, or none when it is not written as a quantity.
pub fn parse(quantity: &Quantity) -> Option<Milli> {
    let text = quantity.0.trim();
    let unit_at = text.find(|c: char| !matches!(c, '0'..='9' | '.' | '+' | '-')).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let (numerator, denominator) = scale(unit)?;
    let negative = number.starts_with('-');
    let digits = number.trim_start_matches(['+', '-']);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let mantissa: i128 = format!("{whole}{fraction}").parse().ok()?;
    let over = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?.checked_mul(denominator)?;
    let scaled = mantissa.checked_mul(1000)?.checked_mul(numerator)?;
    let milli = scaled / over + i128::from(scaled % over != 0);
    Some(Milli(if negative { -milli } else { milli }))
}

fn scale(unit: &str) -> Option<(i128, i128)> {
    Some(match unit {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let size = 10i128.checked_pow(power.unsigned_abs())?;
            if power < 0 { (1, size) } else { (size, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_read_exactly_and_rounded_up() {
        for (text, milli) in [
            ("1", 1000),
            ("250m", 250),
            ("0.1", 100),
            ("1.5", 1500),
            ("1n", 1),
            ("128Mi", 128 * 1024 * 1024 * 1000),
            ("1k", 1_000_000),
            ("1e3", 1_000_000),
            ("1E-3", 1),
            ("-2", -2000),
            (".5", 500),
        ] {
            assert_eq!(parse(&Quantity(text.into())), Some(Milli(milli)), "{text}");
        }
        for text in ["", "x", "1x", "1.2.3", "Mi"] {
            assert_eq!(parse(&Quantity(text.into())), None, "{text}");
        }
        assert_eq!(Milli(1001).units(), 2);
        assert_eq!(Milli(500).divided_by(Milli(1)), 500);
    }
}
