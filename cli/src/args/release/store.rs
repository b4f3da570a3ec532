//! How stores are talked to.
#![expect(clippy::doc_markdown, reason = "these are help texts, shown as they stand")]

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::Args;

/// How a store is talked to.
#[derive(Debug, Args)]
pub(crate) struct StoreArgs {
    /// Talk without TLS to registries and web servers on other machines than this one
    #[arg(long)]
    pub(crate) insecure_http: bool,
    /// Seconds that a silent store is waited for
    #[arg(long, default_value_t = 30, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) store_timeout: u64,
    /// Transfers at a time
    #[arg(long, default_value = "8", value_name = "N")]
    pub(crate) transfers: NonZeroUsize,
}

/// How a release is fetched.
#[derive(Debug, Args)]
pub(crate) struct FetchArgs {
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Take a release that a tag was turned back to
    #[arg(long)]
    pub(crate) allow_rollback: bool,
    /// Most bytes that are pulled, as 64G or 500M
    #[arg(long, default_value = "64G", value_parser = size, value_name = "SIZE")]
    pub(crate) max_size: u64,
    /// Where pulled releases are kept [default: $CASEMATE_CACHE, else $XDG_CACHE_HOME/casemate]
    #[arg(long, value_name = "DIR")]
    pub(crate) release_cache: Option<PathBuf>,
}

fn size(text: &str) -> Result<u64, String> {
    let expected = || "expected a whole number with M, G or T, up to 1024T".to_owned();
    let unit = |suffix, shift: u32| text.strip_suffix(suffix).map(|digits| (digits, shift));
    let (digits, shift) =
        unit('M', 20).or_else(|| unit('G', 30)).or_else(|| unit('T', 40)).ok_or_else(expected)?;
    let plain =
        !digits.is_empty() && digits.len() <= 9 && digits.bytes().all(|b| b.is_ascii_digit());
    let number = if plain { digits.parse::<u64>().ok() } else { None };
    number.map(|n| n << shift).filter(|n| (1..=1 << 50).contains(n)).ok_or_else(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_and_bounded() {
        assert_eq!(size("64G"), Ok(64 << 30));
        assert_eq!(size("1M"), Ok(1 << 20));
        for wrong in ["", "G", "0G", "-1G", "1.5G", "1g", "1025T", "9999999999M", "1"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
