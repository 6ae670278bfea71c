package replica

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/metadata"
)

func clockCommand() *metadata.Command {
	return &metadata.Command{
		Kind: metadata.KindClock, Version: metadata.CommandVersion, Group: 3, Request: metadata.RequestID{1}, Stamp: 5,
		Clock: &metadata.Clock{ElapsedMicros: 7},
	}
}

// TestEntryForm pins the stored form of the head; that of commands is pinned
// in package metadata. FORMAT.md describes it.
func TestEntryForm(t *testing.T) {
	t.Parallel()
	ticket := Ticket{Replica: 2, Session: 0x0102030405060708, Seq: 9}
	data := EncodeEntry(ticket, clockCommand())
	const want = "0101" + "0000000000000002" + "0102030405060708" + "0000000000000009"
	if got := hex.EncodeToString(data[:entryHead]); got != want {
		t.Errorf("head = %s, want %s", got, want)
	}
	var cmd metadata.Command
	got, err := decodeEntry(data, &cmd)
	if err != nil || got != ticket || cmd.Kind != metadata.KindClock || cmd.Clock.ElapsedMicros != 7 || cmd.Stamp != 5 {
		t.Errorf("decodeEntry = %+v, %+v, %v", got, cmd, err)
	}
}

// TestEntriesAreReadInPlace: a body is not copied, and nothing else of the
// command changes with the bytes.
func TestEntriesAreReadInPlace(t *testing.T) {
	t.Parallel()
	body := []byte("a body")
	put := &metadata.Command{Kind: metadata.KindCommitVersion, Version: metadata.CommandVersion, Group: 3,
		CommitVersion: &metadata.CommitVersion{Key: "a key", Inline: body}}
	data := EncodeEntry(Ticket{}, put)
	var cmd metadata.Command
	if _, err := decodeEntry(data, &cmd); err != nil {
		t.Fatal(err)
	}
	got := cmd.CommitVersion
	if got.Key != "a key" || string(got.Inline) != "a body" {
		t.Fatalf("decoded key %q and body %q", got.Key, got.Inline)
	}
	if _ = append(got.Inline, 0xff); bytes.IndexByte(data, 0xff) >= 0 {
		t.Error("appending to the body writes into the entry")
	}
	at := bytes.Index(data, body)
	copy(data[at:], "A BODY")
	if string(got.Inline) != "A BODY" {
		t.Errorf("the body is a copy: %q", got.Inline)
	}
	clear(data)
	if got.Key != "a key" {
		t.Errorf("the key has changed with the bytes: %q", got.Key)
	}
}

func TestEntriesThatAreRefused(t *testing.T) {
	t.Parallel()
	good := EncodeEntry(Ticket{}, clockCommand())
	change := func(i int, b byte) []byte {
		bad := []byte(string(good))
		bad[i] = b
		return bad
	}
	tests := []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "fewer than its head"},
		{"cut off in the head", good[:entryHead-1], "fewer than its head"},
		{"cut off in the command", good[:len(good)-1], "replica: entry:"},
		{"a later version", change(0, 2), "version 2"},
		{"another kind", change(1, 77), "kind 77"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var cmd metadata.Command
			_, err := decodeEntry(test.data, &cmd)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("decodeEntry error = %v", err)
			}
		})
	}
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(EncodeEntry(Ticket{Replica: 1, Session: 2, Seq: 3}, clockCommand()))
	f.Add([]byte{entryVersion, entryCommand})
	f.Fuzz(func(t *testing.T, data []byte) {
		var cmd, again metadata.Command
		ticket, err := decodeEntry(data, &cmd)
		if err != nil {
			return
		}
		back := EncodeEntry(ticket, &cmd)
		if other, err := decodeEntry(back, &again); err != nil || other != ticket {
			t.Errorf("decoded again: %+v, %v; want %+v", other, err, ticket)
		}
	})
}
