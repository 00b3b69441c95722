package main

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/transparency-dev/formats/proof"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8

// ecdsaKey is a signed-note verifier of type 0x02, which x/mod leaves to its callers.
type ecdsaKey struct {
	name string
	id   uint32
	key  *ecdsa.PublicKey
}

func (k ecdsaKey) Name() string    { return k.name }
func (k ecdsaKey) KeyHash() uint32 { return k.id }
func (k ecdsaKey) Verify(msg, sig []byte) bool {
	digest := sha256.Sum256(msg)
	return ecdsa.VerifyASN1(k.key, digest[:], sig)
}

func verifier(text string) (note.Verifier, error) {
	parts := strings.SplitN(text, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("a key has three parts")
	}
	raw, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil || len(raw) == 0 {
		return nil, errors.New("a key is base64")
	}
	if raw[0] != 0x02 {
		return note.NewVerifier(text)
	}
	public, err := x509.ParsePKIXPublicKey(raw[1:])
	if err != nil {
		return nil, err
	}
	key, is := public.(*ecdsa.PublicKey)
	if !is {
		return nil, errors.New("not an ECDSA key")
	}
	digest := sha256.Sum256(raw[1:])
	id := binary.BigEndian.Uint32(digest[:4])
	if said, err := strconv.ParseUint(parts[1], 16, 32); err != nil || uint32(said) != id {
		return nil, errors.New("a key's id is not its own")
	}
	return ecdsaKey{parts[0], id, key}, nil
}

// openCheckpoint gives the tree that both of the log's keys signed.
func openCheckpoint(dir string, signed []byte) (tlog.Tree, string, error) {
	var none tlog.Tree
	texts, err := keys(dir)
	if err != nil {
		return none, "", err
	}
	var verifiers []note.Verifier
	for _, text := range texts {
		one, err := verifier(text)
		if err != nil {
			return none, "", err
		}
		verifiers = append(verifiers, one)
	}
	opened, err := note.Open(signed, note.VerifierList(verifiers...))
	if err != nil {
		return none, "", err
	}
	if len(opened.Sigs) != len(verifiers) {
		return none, "", fmt.Errorf("%d of %d keys signed", len(opened.Sigs), len(verifiers))
	}
	lines := strings.Split(opened.Text, "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] != verifiers[0].Name() {
		return none, "", errors.New("not a checkpoint of this log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || strconv.FormatInt(size, 10) != lines[1] || size < 0 {
		return none, "", errors.New("a checkpoint's size is a number")
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return none, "", err
	}
	return tlog.Tree{N: size, Hash: root}, lines[0], nil
}

// tiles reads the tiles of a case's log.
type tiles struct{ dir string }

func (t tiles) Height() int                     { return tileHeight }
func (t tiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (t tiles) ReadTiles(all []tlog.Tile) ([][]byte, error) {
	var out [][]byte
	for _, tile := range all {
		data, err := t.read(tile)
		if err != nil {
			return nil, err
		}
		out = append(out, data)
	}
	return out, nil
}

func (t tiles) read(tile tlog.Tile) ([]byte, error) {
	data, err := read(t.dir, path(tile))
	if errors.Is(err, os.ErrNotExist) && tile.W < 1<<tileHeight {
		whole := tile
		whole.W = 1 << tileHeight
		if data, err = read(t.dir, path(whole)); err == nil && len(data) == tlog.HashSize<<tileHeight {
			data = data[:tile.W*tlog.HashSize]
		}
	}
	if err == nil && len(data) != tile.W*tlog.HashSize {
		err = fmt.Errorf("%s has %d bytes", path(tile), len(data))
	}
	return data, err
}

// path is x/mod's without the height, as C2SP has it, and with C2SP's word for records.
func path(tile tlog.Tile) string {
	rest := strings.TrimPrefix(tile.Path(), "tile/8/")
	if tile.L == -1 {
		return "tile/entries/" + strings.TrimPrefix(rest, "data/")
	}
	return "tile/" + rest
}

func sumdb(dir string) error {
	if signed, err := os.ReadFile(filepath.Join(dir, "receipt")); err == nil {
		return receipt(dir, signed)
	}
	signed, err := read(dir, "checkpoint")
	if err != nil {
		return err
	}
	tree, _, err := openCheckpoint(dir, signed)
	if err != nil {
		return err
	}
	reader := tiles{dir}
	hashes := tlog.TileHashReader(tree, reader)
	if root, err := tlog.TreeHash(tree.N, hashes); err != nil || root != tree.Hash {
		return fmt.Errorf("the tiles do not give the root: %v", err)
	}
	// Every tile, not only those of some proofs: each is asked for, and TileHashReader holds it against the root.
	for _, tile := range tlog.NewTiles(tileHeight, 0, tree.N) {
		data, err := reader.read(tile)
		if err != nil {
			return err
		}
		again, err := tlog.ReadTileData(tile, hashes)
		if err != nil {
			return err
		}
		if string(data) != string(again) {
			return fmt.Errorf("%s is not of this tree", path(tile))
		}
	}
	if err := records(tree, reader, hashes); err != nil {
		return err
	}
	return remembered(dir, tree, hashes)
}

// records holds every record against its leaf.
func records(tree tlog.Tree, reader tiles, hashes tlog.HashReader) error {
	for n := int64(0); n<<tileHeight < tree.N; n++ {
		width := min(tree.N-n<<tileHeight, 1<<tileHeight)
		tile := tlog.Tile{H: tileHeight, L: -1, N: n, W: int(width)}
		data, err := read(reader.dir, path(tile))
		if errors.Is(err, os.ErrNotExist) && width < 1<<tileHeight {
			tile.W = 1 << tileHeight
			data, err = read(reader.dir, path(tile))
		}
		if err != nil {
			return err
		}
		for at := int64(0); at < int64(tile.W); at++ {
			if len(data) < 2 || len(data) < 2+int(binary.BigEndian.Uint16(data)) {
				return fmt.Errorf("%s ends early", path(tile))
			}
			length := int(binary.BigEndian.Uint16(data))
			record := data[2 : 2+length]
			data = data[2+length:]
			if at >= width {
				continue
			}
			index := n<<tileHeight + at
			found, err := hashes.ReadHashes([]int64{tlog.StoredHashIndex(0, index)})
			if err != nil {
				return err
			}
			if tlog.RecordHash(record) != found[0] {
				return fmt.Errorf("record %d is not the one that was logged", index)
			}
		}
		if len(data) != 0 {
			return fmt.Errorf("%s goes on behind its last record", path(tile))
		}
	}
	return nil
}

// remembered holds the log against a checkpoint of it that the judge has seen before.
func remembered(dir string, tree tlog.Tree, hashes tlog.HashReader) error {
	signed, err := os.ReadFile(filepath.Join(dir, "kept"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	before, _, err := openCheckpoint(dir, signed)
	if err != nil {
		return fmt.Errorf("what was kept: %w", err)
	}
	if before.N > tree.N {
		return fmt.Errorf("the log had %d records, now it has %d", before.N, tree.N)
	}
	path, err := tlog.ProveTree(tree.N, before.N, hashes)
	if err != nil {
		return err
	}
	return tlog.CheckTree(path, tree.N, tree.Hash, before.N, before.Hash)
}

// receipt checks a tlog-proof whose extra line is the record.
func receipt(dir string, text []byte) error {
	var parsed proof.TLogProof
	if err := parsed.Unmarshal(text); err != nil {
		return err
	}
	tree, _, err := openCheckpoint(dir, parsed.Checkpoint)
	if err != nil {
		return err
	}
	var path tlog.RecordProof
	for _, hash := range parsed.Hashes {
		path = append(path, tlog.Hash(hash))
	}
	return tlog.CheckRecord(path, tree.N, tree.Hash, int64(parsed.Index), tlog.RecordHash(parsed.ExtraData))
}
