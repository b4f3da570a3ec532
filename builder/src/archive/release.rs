//! Release files: which indices a suite has, by hash, and from when to when that holds.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use casemate_measurements::hash::Sha256Hash;

use crate::deb::Paragraph;
use crate::recipe::Suite;

/// How far this machine's clock may be behind the archive's.
const CLOCK_SLACK: Duration = Duration::from_hours(24);

/// Why a verified Release file is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// A field is missing or malformed.
    #[error("its field {field} is missing or malformed")]
    Field {
        /// The field.
        field: &'static str,
    },
    /// It is another suite's.
    #[error("it is for {found}, expected {expected}")]
    OtherSuite {
        /// The code name in it.
        found: String,
        /// The suite asked for.
        expected: Suite,
    },
    /// It is too old.
    #[error(
        "it was valid until {until}: the mirror is stale, or withholds news; for a suite where \
         that is usual, list it in expired_ok of its archive"
    )]
    Expired {
        /// The field Valid-Until.
        until: String,
    },
    /// It is from the future.
    #[error("it is dated {date}, in the future of this machine's clock")]
    Future {
        /// The field Date.
        date: String,
    },
    /// It is older than the one that the lock was made with.
    #[error(
        "it is dated {date}, older than {locked} of the lock: the mirror went back; to go back on \
         purpose, delete the lock"
    )]
    Older {
        /// The field Date.
        date: String,
        /// The date in the lock.
        locked: String,
    },
}

/// A Release file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    /// The field Date, as written.
    pub(crate) date: String,
    valid_until: Option<String>,
    files: BTreeMap<String, (Sha256Hash, u64)>,
}

impl Release {
    /// Reads `text`, whose signature was verified, as the Release file of `suite`; that of a
    /// flat archive names none.
    pub(crate) fn parse(text: &str, suite: Option<&Suite>) -> Result<Self, ReleaseError> {
        let fields = Paragraph::new(text);
        if let Some(suite) = suite {
            let found =
                fields.field("Codename").ok_or(ReleaseError::Field { field: "Codename" })?;
            if found != suite.as_str() {
                let (found, expected) = (found.to_owned(), suite.clone());
                return Err(ReleaseError::OtherSuite { found, expected });
            }
        }
        let bad = ReleaseError::Field { field: "Date" };
        let date = fields.field("Date").filter(|date| seconds(date).is_some()).ok_or(bad)?;
        let valid_until = fields.field("Valid-Until");
        if valid_until.is_some_and(|date| seconds(date).is_none()) {
            return Err(ReleaseError::Field { field: "Valid-Until" });
        }
        let mut files = BTreeMap::new();
        for line in fields.field("SHA256").unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            let entry = || -> Option<(String, (Sha256Hash, u64))> {
                let (hash, size) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
                Some((words.next()?.to_owned(), (hash, size)))
            };
            let mut entry = entry;
            let (path, file) = entry().ok_or(ReleaseError::Field { field: "SHA256" })?;
            files.insert(path, file);
        }
        Ok(Self { date: date.to_owned(), valid_until: valid_until.map(str::to_owned), files })
    }

    /// Refuses it if it is from the future or, unless `expired_ok`, past its time.
    pub(crate) fn check_time(&self, now: SystemTime, expired_ok: bool) -> Result<(), ReleaseError> {
        let at = |date: &str| seconds(date).map(|s| UNIX_EPOCH + Duration::from_secs(s));
        if at(&self.date).is_some_and(|date| date > now + CLOCK_SLACK) {
            return Err(ReleaseError::Future { date: self.date.clone() });
        }
        match &self.valid_until {
            Some(until) if !expired_ok && at(until).is_some_and(|until| until < now) => {
                Err(ReleaseError::Expired { until: until.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Refuses it if it is older than `locked`, the date of another.
    pub(crate) fn check_not_older(&self, locked: &str) -> Result<(), ReleaseError> {
        if seconds(&self.date) < seconds(locked) {
            let (date, locked) = (self.date.clone(), locked.to_owned());
            return Err(ReleaseError::Older { date, locked });
        }
        Ok(())
    }

    /// Hash and length of the file `path`, relative to the suite.
    pub(crate) fn file(&self, path: &str) -> Option<(Sha256Hash, u64)> {
        self.files.get(path).copied()
    }
}

/// Seconds since 1970 of `Sat, 12 Sep 2026 07:55:41 UTC`.
fn seconds(date: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = date.split_whitespace().collect();
    let [_, day, month, year, time, zone] = words.as_slice() else { return None };
    if !matches!(*zone, "UTC" | "GMT" | "+0000" | "Z") {
        return None;
    }
    let day: u64 = day.parse().ok().filter(|day| (1..=31).contains(day))?;
    let month = MONTHS.iter().position(|name| name == month)? as u64 + 1;
    let year: u64 = year.parse().ok().filter(|year| (1970..=9999).contains(year))?;
    let mut clock = time.split(':').map(|part| part.parse::<u64>().ok().filter(|&n| n < 61));
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    // Days since 1970, with years that begin in March so that leap days come last.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Origin: Debian\nSuite: testing\nCodename: forky\n\
                        Date: Fri, 30 Oct 2026 08:08:01 UTC\n\
                        Valid-Until: Fri, 06 Nov 2026 08:08:01 UTC\nMD5Sum:\n 00 1 main/x\nSHA256:\n \
                        ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb  17 main/x\n";

    fn parse(text: &str) -> Result<Release, ReleaseError> {
        Release::parse(text, Some(&"forky".parse().unwrap()))
    }

    fn at(date: &str) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds(date).unwrap())
    }

    #[test]
    fn dates_are_read() {
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 UTC"), Some(0));
        assert_eq!(seconds("Sat, 12 Sep 2026 07:55:41 UTC"), Some(1_789_199_741));
        assert_eq!(seconds("Thu, 29 Feb 2024 12:00:00 GMT"), Some(1_709_208_000));
        assert_eq!(seconds("Sat, 12 Sep 2026 07:55:41 CET"), None);
        assert_eq!(seconds("12 Sep 2026"), None);
    }

    #[test]
    fn files_and_times_are_read() {
        let release = parse(TEXT).unwrap();
        assert_eq!(release.file("main/x").unwrap().1, 17);
        assert_eq!(release.file("main/y"), None);
        release.check_time(at("Sun, 01 Nov 2026 00:00:00 UTC"), false).unwrap();
        let late = at("Sun, 22 Nov 2026 00:00:00 UTC");
        let error = release.check_time(late, false).unwrap_err().to_string();
        assert!(error.starts_with("it was valid until Fri, 06 Nov 2026"), "{error}");
        release.check_time(late, true).unwrap();
        let early = at("Sun, 25 Oct 2026 00:00:00 UTC");
        assert!(matches!(release.check_time(early, true), Err(ReleaseError::Future { .. })));
        release.check_not_older("Thu, 29 Oct 2026 00:00:00 UTC").unwrap();
        release.check_not_older(&release.date).unwrap();
        let older = release.check_not_older("Sat, 31 Oct 2026 00:00:00 UTC");
        assert!(matches!(older, Err(ReleaseError::Older { .. })));
    }

    #[test]
    fn what_is_missing_or_another_suites_is_refused() {
        for (from, to, expected) in [
            ("Codename: forky", "Codename: sid", "it is for sid, expected forky"),
            ("Codename", "Code", "its field Codename is missing"),
            ("Date: Fri", "Date: 2026 Fri", "its field Date is missing"),
            ("Until: Fri, 06", "Until: ", "its field Valid-Until is missing"),
            ("ca978112", "CA978112", "its field SHA256 is missing or malformed"),
            ("  17 main/x", "  17", "its field SHA256 is missing or malformed"),
        ] {
            let error = parse(&TEXT.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(at in 0_usize..400, to in "(?s).{0,8}") {
            let mut text = TEXT.to_owned();
            let at = at % text.len();
            text.replace_range(at..=at, &to);
            if let Ok(release) = parse(&text) {
                let _ = release.check_time(SystemTime::now(), false);
            }
        }

        #[test]
        fn no_date_panics(date in "[A-Z][a-z]{2}, [0-9]{0,20} [A-Z][a-z]{2} [0-9]{0,20} [0-9:]{0,20} UTC") {
            let _ = seconds(&date);
        }
    }
}
