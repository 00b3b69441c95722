package main

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"

	formats "github.com/transparency-dev/formats/note"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/transparency-dev/tessera/api"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/fsck"
)

// More than the tiles of a case: fsck's workers end at the first fault, and whoever feeds them must not wait for them.
const workers = 1024

// tessera runs what `go run github.com/transparency-dev/tessera/cmd/fsck` runs, once for each key of the log.
func tessera(dir string) error {
	texts, err := keys(dir)
	if err != nil {
		return err
	}
	log, err := fetcher(dir)
	if err != nil {
		return err
	}
	for _, text := range texts {
		key, err := formats.NewVerifier(text)
		if err != nil {
			return err
		}
		origin := strings.SplitN(text, "+", 2)[0]
		if err := fsck.New(origin, key, log, leaves, fsck.Opts{N: workers}).Check(context.Background()); err != nil {
			return fmt.Errorf("with %s...: %w", text[:min(len(text), 60)], err)
		}
	}
	return nil
}

// fetcher is Tessera's own, for files and for servers.
func fetcher(dir string) (fsck.Fetcher, error) {
	base, served, err := address(dir)
	if err != nil || !served {
		return client.FileFetcher{Root: filepath.Join(dir, "log")}, err
	}
	root, err := url.Parse(base + "/")
	if err != nil {
		return nil, err
	}
	return client.NewHTTPFetcher(root, nil)
}

// leaves hashes the records of a bundle, as cmd/fsck does.
func leaves(bundle []byte) ([][]byte, error) {
	var entries api.EntryBundle
	if err := entries.UnmarshalText(bundle); err != nil {
		return nil, err
	}
	hashes := make([][]byte, 0, len(entries.Entries))
	for _, entry := range entries.Entries {
		hashes = append(hashes, rfc6962.DefaultHasher.HashLeaf(entry))
	}
	return hashes, nil
}
