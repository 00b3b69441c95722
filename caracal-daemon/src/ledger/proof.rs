//! Inclusion and consistency proofs of RFC 6962, made from tiles and checked without them.

use super::tree::{TILE_HEIGHT, TILE_WIDTH, empty_root, node, subtree};
use crate::event::Hash;
use std::collections::{BTreeSet, HashMap};

/// Names a tile: its level and its number.
pub type TileId = (u32, u64);

/// Tiles at hand, full ones or the beginning of one.
pub type Tiles = HashMap<TileId, Vec<Hash>>;

/// The tiles that the inclusion proof of `index` in the tree of `size` leaves needs.
#[must_use]
pub fn inclusion_tiles(index: u64, size: u64) -> BTreeSet<TileId> {
    let mut wanted = BTreeSet::new();
    let _ = inclusion_with(index, size, &mut |level, n| {
        wanted.insert(tile_of(level, n).0);
        Some([0; 32])
    });
    wanted
}

/// The inclusion proof of leaf `index` in the tree of `size` leaves. `None` when a tile is missing or too short, or
/// the index is not below the size.
#[must_use]
pub fn inclusion(index: u64, size: u64, tiles: &Tiles) -> Option<Vec<Hash>> {
    inclusion_with(index, size, &mut |level, n| lookup(tiles, level, n))
}

/// The tiles that the root of the first `size` leaves needs.
#[must_use]
pub fn root_tiles(size: u64) -> BTreeSet<TileId> {
    let mut wanted = BTreeSet::new();
    let _ = root_with(size, &mut |level, n| {
        wanted.insert(tile_of(level, n).0);
        Some([0; 32])
    });
    wanted
}

/// The root of the first `size` leaves. `None` when a tile is missing or too short.
#[must_use]
pub fn root(size: u64, tiles: &Tiles) -> Option<Hash> {
    root_with(size, &mut |level, n| lookup(tiles, level, n))
}

/// The tiles that the consistency proof from `old` to `new` leaves needs.
#[must_use]
pub fn consistency_tiles(old: u64, new: u64) -> BTreeSet<TileId> {
    let mut wanted = BTreeSet::new();
    let _ = consistency_with(old, new, &mut |level, n| {
        wanted.insert(tile_of(level, n).0);
        Some([0; 32])
    });
    wanted
}

/// The proof that the tree of `old` leaves is the beginning of the tree of `new` leaves. `None` when a tile is
/// missing, or not `0 < old <= new`.
#[must_use]
pub fn consistency(old: u64, new: u64, tiles: &Tiles) -> Option<Vec<Hash>> {
    consistency_with(old, new, &mut |level, n| lookup(tiles, level, n))
}

/// Whether `proof` shows `leaf` at `index` of the tree of `size` leaves with this `root` (RFC 9162 section 2.1.3.2).
#[must_use]
pub fn check_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> bool {
    if index >= size {
        return false;
    }
    let (mut at, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            hash = node(sibling, &hash);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

/// Whether `proof` shows that the tree of `old` leaves is the beginning of that of `new` leaves (RFC 9162 section
/// 2.1.4.2).
#[must_use]
pub fn check_consistency(old: u64, new: u64, old_root: &Hash, new_root: &Hash, proof: &[Hash]) -> bool {
    if old == 0 || old > new {
        return false;
    }
    if old == new {
        return proof.is_empty() && old_root == new_root;
    }
    let (first, rest) = match (old.is_power_of_two(), proof.split_first()) {
        (true, _) => (*old_root, proof),
        (false, Some((first, rest))) => (*first, rest),
        (false, None) => return false,
    };
    let (mut at, mut last) = (old - 1, new - 1);
    while at & 1 == 1 {
        at >>= 1;
        last >>= 1;
    }
    let (mut left, mut right) = (first, first);
    for sibling in rest {
        if last == 0 {
            return false;
        }
        if at & 1 == 1 || at == last {
            left = node(sibling, &left);
            right = node(sibling, &right);
            while at & 1 == 0 && at != 0 {
                at >>= 1;
                last >>= 1;
            }
        } else {
            right = node(&right, sibling);
        }
        at >>= 1;
        last >>= 1;
    }
    last == 0 && left == *old_root && right == *new_root
}

/// Gives the hash of the complete subtree of `2^level` leaves with number `n`.
type Nodes<'a> = dyn FnMut(u32, u64) -> Option<Hash> + 'a;

fn root_with(size: u64, nodes: &mut Nodes<'_>) -> Option<Hash> {
    if size == 0 { Some(empty_root()) } else { range(0, size, nodes) }
}

fn inclusion_with(index: u64, size: u64, nodes: &mut Nodes<'_>) -> Option<Vec<Hash>> {
    if index >= size {
        return None;
    }
    let (mut start, mut end) = (0, size);
    let mut proof = Vec::new();
    while end - start > 1 {
        let split = start + split(end - start);
        if index < split {
            proof.push(range(split, end, nodes)?);
            end = split;
        } else {
            proof.push(range(start, split, nodes)?);
            start = split;
        }
    }
    proof.reverse();
    Some(proof)
}

fn consistency_with(old: u64, new: u64, nodes: &mut Nodes<'_>) -> Option<Vec<Hash>> {
    if old == 0 || old > new {
        return None;
    }
    let (mut start, mut end) = (0, new);
    let mut proof = Vec::new();
    while end != old {
        let split = start + split(end - start);
        if old <= split {
            proof.push(range(split, end, nodes)?);
            end = split;
        } else {
            proof.push(range(start, split, nodes)?);
            start = split;
        }
    }
    // The old tree's own last part, unless the old root says it already.
    if start > 0 {
        proof.push(range(start, end, nodes)?);
    }
    proof.reverse();
    Some(proof)
}

/// The largest power of two below `length`, which is at least 2.
fn split(length: u64) -> u64 {
    1 << (63 - (length - 1).leading_zeros())
}

/// The hash over the leaves from `start` to `end`, where `start` is where a subtree of that height begins.
fn range(start: u64, end: u64, nodes: &mut Nodes<'_>) -> Option<Hash> {
    let length = end - start;
    if length.is_power_of_two() {
        let level = length.trailing_zeros();
        return nodes(level, start >> level);
    }
    let middle = start + split(length);
    Some(node(&range(start, middle, nodes)?, &range(middle, end, nodes)?))
}

/// Which tile holds the node, and which of its hashes lie below it.
fn tile_of(level: u32, n: u64) -> (TileId, std::ops::Range<usize>) {
    let below = level % TILE_HEIGHT;
    let first = n << below;
    let start = usize::try_from(first % TILE_WIDTH as u64).unwrap_or(0);
    ((level / TILE_HEIGHT, first / TILE_WIDTH as u64), start..start + (1 << below))
}

fn lookup(tiles: &Tiles, level: u32, n: u64) -> Option<Hash> {
    let (tile, hashes) = tile_of(level, n);
    Some(subtree(tiles.get(&tile)?.get(hashes)?))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::ledger::tree::Tree;
    use crate::ledger::tree::tests::{leaves, naive_root};
    use proptest::prelude::*;

    pub(crate) fn tiles(leaves: &[Hash]) -> Tiles {
        let (mut tree, mut full) = (Tree::default(), Vec::new());
        leaves.iter().for_each(|leaf| tree.append(*leaf, &mut full));
        let mut tiles: Tiles = full.into_iter().map(|tile| ((tile.level, tile.n), tile.hashes)).collect();
        for (level, edge) in tree.edges().iter().enumerate() {
            tiles.insert((level as u32, tree.size() >> (8 * (level + 1))), edge.clone());
        }
        tiles
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]
        #[test]
        fn inclusion_holds_and_nothing_else_does(size in 1usize..1_500, pick in any::<prop::sample::Index>(), flip in 0usize..256) {
            let leaves = leaves(size);
            let (index, tiles, root) = (pick.index(size), tiles(&leaves), naive_root(&leaves));
            let wanted = inclusion_tiles(index as u64, size as u64);
            prop_assert!(wanted.iter().all(|tile| tiles.contains_key(tile)));
            let proof = inclusion(index as u64, size as u64, &tiles).expect("a proof");
            let check = |leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash| check_inclusion(leaf, index, size, proof, root);
            prop_assert!(check(&leaves[index], index as u64, size as u64, &proof, &root));
            let mut bad = leaves[index];
            bad[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(!check(&bad, index as u64, size as u64, &proof, &root));
            let mut longer = proof.clone();
            longer.push([0; 32]);
            prop_assert!(!check(&leaves[index], index as u64, size as u64, &longer, &root));
            if !proof.is_empty() {
                let mut bad = proof.clone();
                let at = flip % bad.len();
                bad[at][0] ^= 1;
                prop_assert!(!check(&leaves[index], index as u64, size as u64, &bad, &root));
                prop_assert!(!check(&leaves[index], index as u64, size as u64, &proof[1..], &root));
                prop_assert!(!check(&leaves[index], index as u64 ^ 1, size as u64, &proof, &root));
            }
        }

        #[test]
        fn consistency_holds_and_nothing_else_does(new in 1usize..1_500, pick in any::<prop::sample::Index>()) {
            let leaves = leaves(new);
            let old = pick.index(new) + 1;
            let (old_root, new_root) = (naive_root(&leaves[..old]), naive_root(&leaves));
            let (old, new) = (old as u64, new as u64);
            let tiles = tiles(&leaves);
            prop_assert!(consistency_tiles(old, new).iter().all(|tile| tiles.contains_key(tile)));
            prop_assert_eq!(root(old, &tiles), Some(old_root));
            let proof = consistency(old, new, &tiles).expect("a proof");
            prop_assert!(check_consistency(old, new, &old_root, &new_root, &proof));
            prop_assert!(!check_consistency(old, new, &[0; 32], &new_root, &proof));
            prop_assert!(!check_consistency(old, new, &old_root, &[0; 32], &proof));
            for at in 0..proof.len() {
                let mut bad = proof.clone();
                bad[at][31] ^= 1;
                prop_assert!(!check_consistency(old, new, &old_root, &new_root, &bad));
            }
        }
    }
}
