package metadata_test

import (
	"testing"

	"github.com/ruche-storage/ruche/metadata"
)

// FuzzUploadID: an upload has one name.
func FuzzUploadID(f *testing.F) {
	f.Add(metadata.UploadID{1, 0xab}.String())
	f.Add("ABCDEF00000000000000000000000000")
	f.Fuzz(func(t *testing.T, s string) {
		if id, ok := metadata.ParseUploadID(s); ok && id.String() != s {
			t.Errorf("%q is read as %q", s, id)
		}
	})
}
