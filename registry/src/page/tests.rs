use super::changes::{Change, Packages, changes};

fn packages(list: &[(&str, &[&str])]) -> Packages {
    list.iter()
        .map(|(name, versions)| {
            let versions = versions.iter().map(|version| (*version).to_owned()).collect();
            ((*name).to_owned(), versions)
        })
        .collect()
}

#[test]
fn changes_are_told_by_package() {
    let before = packages(&[("a", &["1"]), ("b", &["1"]), ("c", &["1", "2"])]);
    let now = packages(&[("a", &["1"]), ("c", &["1", "3"]), ("d", &["4"])]);
    let expected = [
        ("b".to_owned(), Change::Removed("1".to_owned())),
        ("c".to_owned(), Change::Moved("1, 2".to_owned(), "1, 3".to_owned())),
        ("d".to_owned(), Change::Added("4".to_owned())),
    ];
    assert_eq!(changes(&before, &now), expected);
}
