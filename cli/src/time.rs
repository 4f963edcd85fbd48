//! Spans of time as people type them, and instants as they read them.
//!
//! Owns both notations: `1h30m` and `2026-11-22T13:46:25.120Z`.
//! Never asks the clock.

use std::time::{Duration, SystemTime};

const UNITS_MS: [(&str, u64); 7] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("min", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
    ("w", 604_800_000),
];

/// A span such as `500ms`, `30s`, `1h30m` or `7d`; a bare number is seconds.
pub(crate) fn parse_span(text: &str) -> Result<Duration, String> {
    let wrong = || format!("write it as 500ms, 30s, 5m, 1h30m, 7d or 2w, not {text:?}");
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let mut total_ms: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let (number, after) = split(rest, |letter| letter.is_ascii_digit());
        let (unit, after) = split(after, |letter| !letter.is_ascii_digit());
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let (_, unit_ms) = UNITS_MS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        total_ms = number
            .checked_mul(*unit_ms)
            .and_then(|ms| total_ms.checked_add(ms))
            .ok_or_else(|| format!("{text:?} is too long"))?;
        rest = after;
    }
    if text.is_empty() {
        Err(wrong())
    } else {
        Ok(Duration::from_millis(total_ms))
    }
}

/// The longest beginning whose letters all pass, and what follows it.
fn split(text: &str, pass: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(|letter| !pass(letter)).unwrap_or(text.len()))
}

/// The instant in RFC 3339, UTC, to the millisecond.
pub(crate) fn show_instant(instant: SystemTime) -> String {
    let ms = match instant.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_millis()).unwrap_or(i128::MAX),
        Err(before) => -i128::try_from(before.duration().as_millis()).unwrap_or(i128::MAX),
    };
    let (days, ms_of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil(days);
    let (hour, minute) = (ms_of_day / 3_600_000, ms_of_day / 60_000 % 60);
    let (second, milli) = (ms_of_day / 1_000 % 60, ms_of_day % 1_000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// The Gregorian date `days` after 1970-01-01, counted in eras of 400 years that begin on 1 March.
fn civil(days: i128) -> (i128, i128, i128) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    (era * 400 + year_of_era + i128::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_add_up() {
        for (text, ms) in [
            ("0", 0),
            ("30", 30_000),
            ("500ms", 500),
            ("1h30m", 5_400_000),
            ("1w1d", 691_200_000),
            ("1m1s", 61_000),
        ] {
            assert_eq!(parse_span(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn other_words_are_refused() {
        for text in [
            "",
            "s",
            "-1s",
            "1.5h",
            "1 h",
            "1y",
            "1h30",
            "99999999999999999999",
            "99999999999999999w",
            "٣s",
        ] {
            assert!(parse_span(text).is_err(), "{text}");
        }
    }

    #[test]
    fn instants_read_as_dates() {
        let at = |s| SystemTime::UNIX_EPOCH + Duration::from_secs(s);
        assert_eq!(show_instant(at(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(show_instant(at(951_782_400)), "2000-02-29T00:00:00.000Z");
        assert_eq!(show_instant(at(1_795_355_185)), "2026-11-22T13:46:25.000Z");
        assert_eq!(show_instant(at(4_107_542_399)), "2100-02-28T23:59:59.000Z");
    }
}
