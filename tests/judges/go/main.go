// Command judge says of logs and receipts that Caracal wrote whether they are sound, with code that nobody of Caracal wrote:
// golang.org/x/mod's sumdb/note and sumdb/tlog, and Tessera's fsck.
//
//	judge sumdb|fsck CASE...
//
// Each CASE is a directory: `keys` (verifier keys, one a line), and either `receipt` (a c2sp.org/tlog-proof), or `log` (the files of a
// c2sp.org/tlog-tiles log), or `url` (where that log is served); with a log there may be `kept` (a checkpoint that the judge
// remembers). One JSON line is printed for each.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

type verdict struct {
	Case    string `json:"case"`
	Accepts bool   `json:"accepts"`
	Why     string `json:"why,omitempty"`
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: judge sumdb|fsck CASE...")
		os.Exit(2)
	}
	judges := map[string]func(string) error{"sumdb": sumdb, "fsck": tessera}
	judge, known := judges[os.Args[1]]
	if !known {
		fmt.Fprintf(os.Stderr, "no judge %q\n", os.Args[1])
		os.Exit(2)
	}
	out := json.NewEncoder(os.Stdout)
	for _, dir := range os.Args[2:] {
		said := verdict{Case: filepath.Base(dir)}
		if err := guarded(judge, dir); err != nil {
			said.Why = err.Error()
			if len(said.Why) > 300 {
				said.Why = said.Why[:300]
			}
		} else {
			said.Accepts = true
		}
		if err := out.Encode(said); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}

// guarded takes a judge that stumbles for one that does not accept.
func guarded(judge func(string) error, dir string) (err error) {
	defer func() {
		if stumble := recover(); stumble != nil {
			err = fmt.Errorf("it stumbled: %v", stumble)
		}
	}()
	return judge(dir)
}

// address is where the log of a case is served, if it is.
func address(dir string) (string, bool, error) {
	text, err := os.ReadFile(filepath.Join(dir, "url"))
	if errors.Is(err, os.ErrNotExist) {
		return "", false, nil
	}
	return strings.TrimSpace(string(text)), err == nil, err
}

// read gives a file of the log of a case.
func read(dir, name string) ([]byte, error) {
	base, served, err := address(dir)
	if err != nil {
		return nil, err
	}
	if !served {
		return os.ReadFile(filepath.Join(dir, "log", name))
	}
	answer, err := http.Get(base + "/" + name)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
		return io.ReadAll(io.LimitReader(answer.Body, 1<<26))
	case http.StatusNotFound:
		return nil, fmt.Errorf("%s: %w", name, os.ErrNotExist)
	}
	return nil, fmt.Errorf("%s: the server says %s", name, answer.Status)
}

// keys are the verifier keys of the log's checkpoints; the key of the host's chain is for other signatures.
func keys(dir string) ([]string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "keys"))
	if err != nil {
		return nil, err
	}
	var found []string
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasSuffix(strings.SplitN(line, "+", 2)[0], "/host") {
			found = append(found, line)
		}
	}
	if len(found) != 2 {
		return nil, fmt.Errorf("%d keys of the log, not an ECDSA and an Ed25519 one", len(found))
	}
	return found, nil
}
