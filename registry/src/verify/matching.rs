//! How many signers signed, when a signature may be any of several signers'.

/// The most pairs of a signature and a signer who it may be of, each of them in one pair: for each
/// signature its signer. `may_be[i]` are the signers that signature `i` may be of, below `signers`.
pub(super) fn assign(may_be: &[Vec<usize>], signers: usize) -> Vec<Option<usize>> {
    let mut taken: Vec<Option<usize>> = vec![None; signers];
    for signature in 0..may_be.len() {
        let mut seen = vec![false; signers];
        place(signature, may_be, &mut taken, &mut seen);
    }
    let mut assigned = vec![None; may_be.len()];
    for (signer, signature) in taken.into_iter().enumerate() {
        if let Some(signature) = signature {
            assigned[signature] = Some(signer);
        }
    }
    assigned
}

/// Finds a signer for a signature, moving others where that makes room. As deep as there are
/// signers, which a policy bounds.
fn place(
    signature: usize,
    may_be: &[Vec<usize>],
    taken: &mut [Option<usize>],
    seen: &mut [bool],
) -> bool {
    for &signer in &may_be[signature] {
        if std::mem::replace(&mut seen[signer], true) {
            continue;
        }
        let free = match taken[signer] {
            None => true,
            Some(other) => place(other, may_be, taken, seen),
        };
        if free {
            taken[signer] = Some(signature);
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The most pairs, by trying everything.
    fn most(may_be: &[Vec<usize>], used: u32) -> usize {
        let Some((first, rest)) = may_be.split_first() else { return 0 };
        let with = first.iter().filter(|signer| used & (1 << **signer) == 0);
        let with = with.map(|signer| 1 + most(rest, used | (1 << *signer))).max().unwrap_or(0);
        with.max(most(rest, used))
    }

    #[test]
    fn a_signer_who_fits_two_makes_room() {
        // The first may be either signer's, the second only the first one's.
        assert_eq!(assign(&[vec![0, 1], vec![0]], 2), [Some(1), Some(0)]);
        assert_eq!(assign(&[vec![0], vec![0]], 2).iter().flatten().count(), 1);
        assert_eq!(assign(&[vec![], vec![]], 2), [None, None]);
    }

    proptest! {
        #[test]
        fn nobody_counts_twice_and_nobody_is_forgotten(
            may_be in prop::collection::vec(prop::collection::btree_set(0_usize..5, 0..4), 0..6),
        ) {
            let may_be: Vec<Vec<usize>> =
                may_be.into_iter().map(|set| set.into_iter().collect()).collect();
            let assigned = assign(&may_be, 5);
            let mut signers: Vec<usize> = assigned.iter().flatten().copied().collect();
            let pairs = signers.len();
            for (signature, signer) in assigned.iter().enumerate() {
                prop_assert!(signer.is_none_or(|signer| may_be[signature].contains(&signer)));
            }
            signers.sort_unstable();
            signers.dedup();
            prop_assert_eq!(signers.len(), pairs);
            prop_assert_eq!(pairs, most(&may_be, 0));
        }
    }
}
