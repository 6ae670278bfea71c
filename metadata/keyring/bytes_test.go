package keyring

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"
	"time"
)

func TestSealBytes(t *testing.T) {
	t.Parallel()
	k, _ := create(t, 50, 0)
	plain, where := []byte("tables"), []byte("record 1")
	by, sealed, err := k.SealBytes(source(51), where, plain)
	if err != nil || len(sealed) != len(plain)+BytesOverhead {
		t.Fatal(len(sealed), err)
	}
	k, err = k.Rotate(source(52), time.Unix(1_790_000_000, 0))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := k.OpenBytes(by, where, sealed); err != nil || !bytes.Equal(got, plain) {
		t.Errorf("OpenBytes after a rotation: %q, %v", got, err)
	}
	if again, _, err := k.SealBytes(source(51), where, plain); err != nil || again == by {
		t.Errorf("sealed under the old master key: %v", err)
	}
	for i := range sealed {
		flipped := bytes.Clone(sealed)
		flipped[i] ^= 1
		if got, err := k.OpenBytes(by, where, flipped); !errors.Is(err, ErrOpenBytes) || got != nil {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
	if _, err := k.OpenBytes(by, []byte("record 2"), sealed); !errors.Is(err, ErrOpenBytes) {
		t.Errorf("in another place: %v", err)
	}
	if _, err := k.OpenBytes(by, where, sealed[:BytesOverhead-1]); !errors.Is(err, ErrOpenBytes) {
		t.Errorf("cut short: %v", err)
	}
	other, _ := create(t, 53, 0)
	if _, err := other.OpenBytes(by, where, sealed); !errors.Is(err, ErrNoKey) {
		t.Errorf("another keyring: %v", err)
	}
	moved := *k
	moved.cluster = ClusterID{9}
	if _, err := moved.OpenBytes(by, where, sealed); !errors.Is(err, ErrOpenBytes) {
		t.Errorf("another cluster: %v", err)
	}
}

// TestSealBytesGolden pins the stored form.
func TestSealBytesGolden(t *testing.T) {
	t.Parallel()
	k, _ := create(t, 54, 0)
	by, sealed, err := k.SealBytes(source(55), []byte("here"), []byte("tables"))
	const wantBy = "f60a50a4b97a7597ec77120b190f34cf"
	const want = "0189a8ff70efb0bafbb31d8c55cfb6cbd82c705fbf021f748dadb008f0a802793bccdb9a445c7887d61cd3b1626d5e8072fbd277843263"
	if got := hex.EncodeToString(sealed); err != nil || by.String() != wantBy || got != want {
		t.Errorf("by %s\n%s\n%v", by, got, err)
	}
}
