//! RFC 6962 hashing over an append-only list of leaf hashes, with what is needed to go on: the frontier and the open
//! tiles. Pure; knows nothing of storage. Sizes and indices count leaves.

use crate::event::{Hash, node_hashes};
use sha2::{Digest as _, Sha256};

/// Levels of the tree that one tile spans (C2SP tlog-tiles).
pub const TILE_HEIGHT: u32 = 8;
/// Hashes in a full tile.
pub const TILE_WIDTH: usize = 1 << TILE_HEIGHT;

/// The hash of a node: SHA-256 over a one byte and both children.
#[must_use]
pub fn node(left: &Hash, right: &Hash) -> Hash {
    let mut hasher = Sha256::new();
    hasher.update([1u8]);
    hasher.update(left);
    hasher.update(right);
    hasher.finalize().into()
}

/// The root of the empty tree.
#[must_use]
pub fn empty_root() -> Hash {
    Sha256::digest([]).into()
}

/// A full tile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tile {
    /// 0 for tiles of leaf hashes.
    pub level: u32,
    /// Its number within the level.
    pub n: u64,
    /// 256 hashes.
    pub hashes: Vec<Hash>,
}

/// A tree that grows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree {
    size: u64,
    // The complete subtree of 2^i leaves at the right edge, for each bit of the size that is set.
    frontier: Vec<Option<Hash>>,
    edges: Vec<Vec<Hash>>,
}

impl Tree {
    /// The tree of `size` leaves whose open tiles are `edges`, lowest level first.
    /// `None` when the edges do not have the widths that the size asks for.
    #[must_use]
    pub fn restore(size: u64, edges: Vec<Vec<Hash>>) -> Option<Tree> {
        let mut tree = Tree { size, frontier: Vec::new(), edges };
        let mut rest = size;
        for level in 0.. {
            if rest == 0 && level >= tree.edges.len() {
                break;
            }
            let width = usize::try_from(rest % TILE_WIDTH as u64).ok()?;
            let edge = tree.edges.get(level).map_or(&[][..], Vec::as_slice);
            if edge.len() != width {
                return None;
            }
            let mut start = 0;
            let mut subtrees = vec![None; TILE_HEIGHT as usize];
            for bit in (0..TILE_HEIGHT).rev() {
                let length = 1usize << bit;
                if width & length != 0 {
                    *subtrees.get_mut(bit as usize)? = Some(subtree(edge.get(start..start + length)?));
                    start += length;
                }
            }
            tree.frontier.extend(subtrees);
            rest /= TILE_WIDTH as u64;
        }
        Some(tree)
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The open tiles, lowest level first: the hashes of a level that fill no tile yet.
    #[must_use]
    pub fn edges(&self) -> &[Vec<Hash>] {
        &self.edges
    }

    /// How many leaves it can take until it has the first of these sizes; those that it has passed do not count.
    #[must_use]
    pub fn until(&self, sizes: impl IntoIterator<Item = u64>) -> usize {
        let room = sizes.into_iter().filter_map(|size| size.checked_sub(self.size)).filter(|room| *room > 0).min();
        room.and_then(|room| usize::try_from(room).ok()).unwrap_or(usize::MAX)
    }

    /// Appends a leaf; tiles that it completes are pushed to `full`.
    pub fn append(&mut self, leaf: Hash, full: &mut Vec<Tile>) {
        self.carry(leaf, 0, full);
        self.size += 1;
    }

    /// Appends leaves. Those that make a whole tile are hashed many at once.
    pub fn append_all(&mut self, leaves: &[Hash], full: &mut Vec<Tile>) {
        if leaves.len() != TILE_WIDTH || !self.size.is_multiple_of(TILE_WIDTH as u64) {
            leaves.iter().for_each(|leaf| self.append(*leaf, full));
            return;
        }
        let height = TILE_HEIGHT as usize;
        if self.edges.is_empty() {
            self.edges.push(Vec::with_capacity(TILE_WIDTH));
        }
        if self.frontier.len() < height {
            self.frontier.resize(height, None);
        }
        full.push(Tile { level: 0, n: self.size / TILE_WIDTH as u64, hashes: leaves.to_vec() });
        let mut level = node_hashes(leaves);
        while level.len() > 1 {
            level = node_hashes(&level);
        }
        // As the last of them does.
        self.size += TILE_WIDTH as u64 - 1;
        level.into_iter().for_each(|root| self.carry(root, height, full));
        self.size += 1;
    }

    /// Puts a complete subtree of 2^`height` leaves to the right edge.
    fn carry(&mut self, mut hash: Hash, mut height: usize, full: &mut Vec<Tile>) {
        loop {
            if height.is_multiple_of(TILE_HEIGHT as usize) {
                self.push_edge(height / TILE_HEIGHT as usize, hash, full);
            }
            if height == self.frontier.len() {
                self.frontier.push(None);
            }
            let Some(slot) = self.frontier.get_mut(height) else { break };
            match slot.take() {
                Some(left) => hash = node(&left, &hash),
                None => {
                    *slot = Some(hash);
                    break;
                }
            }
            height += 1;
        }
    }

    fn push_edge(&mut self, level: usize, hash: Hash, full: &mut Vec<Tile>) {
        if level == self.edges.len() {
            self.edges.push(Vec::with_capacity(TILE_WIDTH));
        }
        let Some(edge) = self.edges.get_mut(level) else { return };
        edge.push(hash);
        if edge.len() == TILE_WIDTH {
            let shift = TILE_HEIGHT * u32::try_from(level + 1).unwrap_or(u32::MAX);
            let n = self.size.checked_shr(shift).unwrap_or(0);
            let hashes = std::mem::replace(edge, Vec::with_capacity(TILE_WIDTH));
            full.push(Tile { level: u32::try_from(level).unwrap_or(u32::MAX), n, hashes });
        }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut root = None;
        for subtree in self.frontier.iter().flatten() {
            root = Some(root.map_or(*subtree, |right| node(subtree, &right)));
        }
        root.unwrap_or_else(empty_root)
    }
}

/// The root over `hashes`, whose number is a power of two.
#[must_use]
pub fn subtree(hashes: &[Hash]) -> Hash {
    match hashes {
        [] => empty_root(),
        [one] => *one,
        many => {
            let (left, right) = many.split_at(many.len() / 2);
            node(&subtree(left), &subtree(right))
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 6962 section 2.1, word by word.
    pub(crate) fn naive_root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty_root(),
            [one] => *one,
            many => {
                let split = many.len().next_power_of_two() / 2;
                let (left, right) = many.split_at(split);
                node(&naive_root(left), &naive_root(right))
            }
        }
    }

    pub(crate) fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|index| crate::event::leaf_hash(&index.to_le_bytes())).collect()
    }

    #[test]
    fn the_root_is_that_of_the_rfc_at_every_size() {
        let leaves = leaves(1_100);
        let (mut tree, mut full) = (Tree::default(), Vec::new());
        for (index, leaf) in leaves.iter().enumerate() {
            assert_eq!(tree.root(), naive_root(&leaves[..index]), "size {index}");
            tree.append(*leaf, &mut full);
        }
        assert_eq!(full.len(), 4);
        assert!(full.iter().enumerate().all(|(n, tile)| tile.n == n as u64 && tile.level == 0));
    }

    #[test]
    fn whole_tiles_make_the_tiles_above_them() {
        let leaves = leaves(TILE_WIDTH * TILE_WIDTH + 2 * TILE_WIDTH);
        let (mut one, mut many) = ((Tree::default(), Vec::new()), (Tree::default(), Vec::new()));
        leaves.iter().for_each(|leaf| one.0.append(*leaf, &mut one.1));
        leaves.chunks(TILE_WIDTH).for_each(|tile| many.0.append_all(tile, &mut many.1));
        assert_eq!(one, many);
    }

    #[test]
    fn second_level_tiles_hold_the_roots_of_the_first() {
        let leaves = leaves(TILE_WIDTH * TILE_WIDTH);
        let (mut tree, mut full) = (Tree::default(), Vec::new());
        leaves.iter().for_each(|leaf| tree.append(*leaf, &mut full));
        let upper = full.iter().find(|tile| tile.level == 1).expect("a tile of level 1");
        assert_eq!(upper.n, 0);
        for (index, hash) in upper.hashes.iter().enumerate() {
            assert_eq!(*hash, naive_root(&leaves[index * TILE_WIDTH..(index + 1) * TILE_WIDTH]));
        }
        assert_eq!(tree.root(), naive_root(&leaves));
        assert_eq!(tree.edges().len(), 3);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn many_at_once_are_as_one_by_one(parts in proptest::collection::vec(prop_oneof![Just(256usize), 0usize..300], 1..9)) {
            let leaves = leaves(parts.iter().sum());
            let (mut one, mut many) = ((Tree::default(), Vec::new()), (Tree::default(), Vec::new()));
            let mut rest = leaves.as_slice();
            for part in parts {
                let (now, later) = rest.split_at(part);
                now.iter().for_each(|leaf| one.0.append(*leaf, &mut one.1));
                many.0.append_all(now, &mut many.1);
                prop_assert_eq!(&one, &many);
                rest = later;
            }
        }

        #[test]
        fn a_restored_tree_goes_on(size in 0usize..2_000, more in 0usize..600) {
            let leaves = leaves(size + more);
            let (mut tree, mut full) = (Tree::default(), Vec::new());
            leaves[..size].iter().for_each(|leaf| tree.append(*leaf, &mut full));
            let mut restored = Tree::restore(size as u64, tree.edges().to_vec()).expect("restored");
            prop_assert_eq!(restored.root(), tree.root());
            leaves[size..].iter().for_each(|leaf| restored.append(*leaf, &mut full));
            prop_assert_eq!(restored.root(), naive_root(&leaves));
        }
    }
}
