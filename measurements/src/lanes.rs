//! Digests for one vCPU after another, of many launches at once. Each step of a chain waits for
//! the one before, so a processor with vectors of 512 bits takes eight chains together.

use crate::digest::{VCPU_PAGE_WORDS, vcpu_step};
use crate::hash::LaunchDigest;

/// A launch with one vCPU, and what each further vCPU adds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    /// The digest with one vCPU.
    pub(crate) first: [u8; 48],
    /// Hash of the page of every further one.
    pub(crate) other: [u8; 48],
    /// Up to so many vCPUs.
    pub(crate) most: u16,
}

/// The first of `starts` that has the digest with some number of vCPUs, and that number.
pub(crate) fn find(starts: &[Start], measurement: &LaunchDigest) -> Option<(usize, u16)> {
    // Not optimised, the vectors are slower than the assembly of one hash.
    if cfg!(debug_assertions) {
        return find_one_by_one(starts, measurement);
    }
    find_in_vectors(starts, measurement)
}

fn find_in_vectors(starts: &[Start], measurement: &LaunchDigest) -> Option<(usize, u16)> {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx512f") {
        return avx512::find(starts, measurement);
    }
    find_one_by_one(starts, measurement)
}

fn find_one_by_one(starts: &[Start], measurement: &LaunchDigest) -> Option<(usize, u16)> {
    starts.iter().enumerate().find_map(|(index, start)| {
        let mut value = start.first;
        for count in 1..=start.most {
            if value == *measurement.as_bytes() {
                return Some((index, count));
            }
            value = vcpu_step(&value, &start.other);
        }
        None
    })
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    #![expect(
        unsafe_code,
        reason = "a function for processors with AVX-512 is called on those only"
    )]
    #![expect(clippy::many_single_char_names, reason = "the standard's names")]
    #![expect(clippy::cast_possible_truncation, reason = "limbs of greater numbers")]

    use std::arch::x86_64::{
        __m512i, _mm512_add_epi64, _mm512_cmpeq_epi64_mask, _mm512_ror_epi64, _mm512_set_epi64,
        _mm512_set1_epi64, _mm512_srli_epi64, _mm512_ternarylogic_epi64,
    };

    use super::{LaunchDigest, Start, VCPU_PAGE_WORDS};

    const LANES: usize = 8;
    const WORDS: usize = 6;

    /// SHA-384's first state: FIPS 180-4, section 5.3.4.
    const INITIAL: [u64; 8] = [
        0xcbbb_9d5d_c105_9ed8,
        0x629a_292a_367c_d507,
        0x9159_015a_3070_dd17,
        0x152f_ecd8_f70e_5939,
        0x6733_2667_ffc0_0b31,
        0x8eb4_4a87_6858_1511,
        0xdb0c_2e0d_64f9_8fa7,
        0x47b5_481d_befa_4fa4,
    ];

    /// Constants of the rounds: FIPS 180-4, section 4.2.3, the first 64 bits of the fractional
    /// parts of the cube roots of the first eighty primes.
    const ROUND: [u64; 80] = round_constants();

    /// Computed, so that no digit of 80 numbers can be mistyped.
    const fn round_constants() -> [u64; 80] {
        let (mut constants, mut found, mut candidate) = ([0; 80], 0, 2_u64);
        while found < 80 {
            let mut divisor = 2;
            while divisor * divisor <= candidate && !candidate.is_multiple_of(divisor) {
                divisor += 1;
            }
            if divisor * divisor > candidate {
                constants[found] = cube_root_fraction(candidate);
                found += 1;
            }
            candidate += 1;
        }
        constants
    }

    /// 64 bits behind the point of a cube root: the greatest `r` with `r`³ at most `n`·2¹⁹², less
    /// its whole part.
    const fn cube_root_fraction(n: u64) -> u64 {
        let mut root: u128 = 0;
        // The root of a prime below 410 is below 8, so `r` has at most 67 bits.
        let mut bit = 67;
        while bit > 0 {
            bit -= 1;
            let tried = root | 1 << bit;
            if cube_is_at_most(tried, n) {
                root = tried;
            }
        }
        // What is cut off is the whole part.
        root as u64
    }

    /// Whether `r`³ is at most `n`·2¹⁹², by limbs of 32 bits.
    const fn cube_is_at_most(r: u128, n: u64) -> bool {
        let limbs = [r as u32, (r >> 32) as u32, (r >> 64) as u32];
        let mut square = [0_u32; 6];
        multiply(&limbs, &limbs, &mut square);
        let mut cube = [0_u32; 9];
        multiply(&square, &limbs, &mut cube);
        // `n`·2¹⁹² has `n` in limbs 6 and 7 and zeros below.
        let high = (cube[8] as u128) << 64 | (cube[7] as u128) << 32 | cube[6] as u128;
        let mut low = 0;
        let mut index = 0;
        while index < 6 {
            low |= cube[index];
            index += 1;
        }
        high < n as u128 || high == n as u128 && low == 0
    }

    const fn multiply(a: &[u32], b: &[u32], product: &mut [u32]) {
        let mut i = 0;
        while i < a.len() {
            let (mut carry, mut j) = (0_u64, 0);
            while j < b.len() {
                let sum = product[i + j] as u64 + a[i] as u64 * b[j] as u64 + carry;
                product[i + j] = sum as u32;
                carry = sum >> 32;
                j += 1;
            }
            product[i + j] = carry as u32;
            i += 1;
        }
    }

    pub(super) fn find(starts: &[Start], measurement: &LaunchDigest) -> Option<(usize, u16)> {
        starts.chunks(LANES).enumerate().find_map(|(chunk, starts)| {
            // SAFETY: the caller asked the processor for AVX-512F.
            let (lane, count) = unsafe { find_in_lanes(starts, &words(measurement.as_bytes())) }?;
            Some((chunk * LANES + lane, count))
        })
    }

    fn words(bytes: &[u8; 48]) -> [u64; WORDS] {
        let (chunks, _) = bytes.as_chunks::<8>();
        std::array::from_fn(|index| u64::from_be_bytes(chunks[index]))
    }

    #[target_feature(enable = "avx512f")]
    fn vector(lane: impl Fn(usize) -> u64) -> __m512i {
        let lane = |index| lane(index).cast_signed();
        _mm512_set_epi64(lane(7), lane(6), lane(5), lane(4), lane(3), lane(2), lane(1), lane(0))
    }

    #[target_feature(enable = "avx512f")]
    fn same(value: u64) -> __m512i {
        _mm512_set1_epi64(value.cast_signed())
    }

    #[target_feature(enable = "avx512f")]
    fn find_in_lanes(starts: &[Start], measurement: &[u64; WORDS]) -> Option<(usize, u16)> {
        // Lanes without a start repeat the first one, which is found in its own lane.
        let start = |lane: usize| starts.get(lane).unwrap_or(&starts[0]);
        let mut value = [same(0); WORDS];
        let mut other = [same(0); WORDS];
        let mut wanted = [same(0); WORDS];
        for index in 0..WORDS {
            value[index] = vector(|lane| words(&start(lane).first)[index]);
            other[index] = vector(|lane| words(&start(lane).other)[index]);
            wanted[index] = same(measurement[index]);
        }
        let most = starts.iter().map(|start| start.most).max()?;
        let mut found: Option<(usize, u16)> = None;
        for count in 1..=most {
            let equal = value.iter().zip(&wanted).fold(0xff, |equal, (value, wanted)| {
                equal & _mm512_cmpeq_epi64_mask(*value, *wanted)
            });
            if equal != 0 {
                let lanes = (0..starts.len()).filter(|lane| equal >> lane & 1 == 1);
                let in_bounds = lanes.filter(|lane| count <= starts[*lane].most);
                found = in_bounds.map(|lane| (lane, count)).chain(found).min();
            }
            value = step(&value, &other);
        }
        found
    }

    /// SHA-384 of `PAGE_INFO`: two blocks, the second of which is padding alone.
    #[target_feature(enable = "avx512f")]
    fn step(value: &[__m512i; WORDS], contents: &[__m512i; WORDS]) -> [__m512i; WORDS] {
        let mut block = [same(0); 16];
        block[..WORDS].copy_from_slice(value);
        block[WORDS..2 * WORDS].copy_from_slice(contents);
        block[12] = same(VCPU_PAGE_WORDS[0]);
        block[13] = same(VCPU_PAGE_WORDS[1]);
        block[14] = same(1 << 63);
        let mut padding = [same(0); 16];
        padding[15] = same(0x70 * 8);
        let mut state = [same(0); 8];
        for (word, initial) in state.iter_mut().zip(INITIAL) {
            *word = same(initial);
        }
        state = compress(&state, block);
        state = compress(&state, padding);
        let [a, b, c, d, e, f, ..] = state;
        [a, b, c, d, e, f]
    }

    /// Truth tables of `_mm512_ternarylogic_epi64`: all three exclusive, a choice, a majority.
    const XOR: i32 = 0x96;
    const CHOICE: i32 = 0xca;
    const MAJORITY: i32 = 0xe8;

    /// FIPS 180-4, section 6.4.2.
    #[target_feature(enable = "avx512f")]
    fn compress(state: &[__m512i; 8], mut w: [__m512i; 16]) -> [__m512i; 8] {
        let [mut a, mut b, mut c, mut d, mut e, mut f, mut g, mut h] = *state;
        for (round, constant) in ROUND.into_iter().enumerate() {
            let at = round % 16;
            if round >= 16 {
                let (before, two) = (w[(round + 1) % 16], w[(round + 14) % 16]);
                let s0 = _mm512_ternarylogic_epi64::<XOR>(
                    _mm512_ror_epi64::<1>(before),
                    _mm512_ror_epi64::<8>(before),
                    _mm512_srli_epi64::<7>(before),
                );
                let s1 = _mm512_ternarylogic_epi64::<XOR>(
                    _mm512_ror_epi64::<19>(two),
                    _mm512_ror_epi64::<61>(two),
                    _mm512_srli_epi64::<6>(two),
                );
                let sum = _mm512_add_epi64(_mm512_add_epi64(w[at], s0), w[(round + 9) % 16]);
                w[at] = _mm512_add_epi64(sum, s1);
            }
            let s1 = _mm512_ternarylogic_epi64::<XOR>(
                _mm512_ror_epi64::<14>(e),
                _mm512_ror_epi64::<18>(e),
                _mm512_ror_epi64::<41>(e),
            );
            let s0 = _mm512_ternarylogic_epi64::<XOR>(
                _mm512_ror_epi64::<28>(a),
                _mm512_ror_epi64::<34>(a),
                _mm512_ror_epi64::<39>(a),
            );
            let choice = _mm512_ternarylogic_epi64::<CHOICE>(e, f, g);
            let majority = _mm512_ternarylogic_epi64::<MAJORITY>(a, b, c);
            let first = _mm512_add_epi64(_mm512_add_epi64(h, s1), choice);
            let first = _mm512_add_epi64(first, _mm512_add_epi64(same(constant), w[at]));
            (h, g, f, e) = (g, f, e, _mm512_add_epi64(d, first));
            (d, c, b, a) = (c, b, a, _mm512_add_epi64(first, _mm512_add_epi64(s0, majority)));
        }
        let mut sums = [a, b, c, d, e, f, g, h];
        for (sum, before) in sums.iter_mut().zip(state) {
            *sum = _mm512_add_epi64(*sum, *before);
        }
        sums
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn constants_are_those_of_the_standard() {
            assert_eq!(ROUND[0], 0x428a_2f98_d728_ae22);
            assert_eq!(ROUND[1], 0x7137_4491_23ef_65cd);
            assert_eq!(ROUND[79], 0x6c44_198c_4a47_5817);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts(count: u8) -> Vec<Start> {
        let start =
            |n: u8| Start { first: [n; 48], other: [n ^ 0x5a; 48], most: u16::from(n % 5) * 3 + 2 };
        (0..count).map(start).collect()
    }

    /// On a processor with vectors the two ways are held to each other; on another they are one.
    #[test]
    fn eight_at_once_are_as_one_by_one() {
        let starts = starts(11);
        for (index, start) in starts.iter().enumerate() {
            let mut value = start.first;
            for count in 1..=start.most + 1 {
                let expected = (count <= start.most).then_some((index, count));
                let measurement = LaunchDigest::from_bytes(value);
                assert_eq!(find_in_vectors(&starts, &measurement), expected);
                assert_eq!(find_one_by_one(&starts, &measurement), expected);
                value = vcpu_step(&value, &start.other);
            }
        }
        assert_eq!(find_in_vectors(&[], &LaunchDigest::from_bytes([0; 48])), None);
    }

    #[test]
    fn the_first_of_two_alike_is_found() {
        let one = starts(3)[2];
        let later = Start { first: vcpu_step(&one.first, &one.other), ..one };
        let measurement = LaunchDigest::from_bytes(later.first);
        for starts in [[one, later], [later, one]] {
            let expected = Some((0, if starts[0].first == one.first { 2 } else { 1 }));
            assert_eq!(find_in_vectors(&starts, &measurement), expected);
            assert_eq!(find_one_by_one(&starts, &measurement), expected);
        }
    }
}
