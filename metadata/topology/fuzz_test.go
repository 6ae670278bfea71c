package topology_test

import (
	"strings"
	"testing"

	"github.com/ruche-storage/ruche/metadata/topology"
)

// FuzzDriveID: an id that was taken is that of the same hexadecimal digits, and
// its usual form is read as the same id.
func FuzzDriveID(f *testing.F) {
	f.Add("2c13a398-c6bd-4956-bc05-3610805dd01b")
	f.Add("2C13A398C6BD4956BC053610805DD01B")
	f.Add("--------------------------------")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := topology.ParseDriveID(s)
		if err != nil {
			if !strings.Contains(err.Error(), "is not a UUID") {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		digits := strings.ToLower(strings.ReplaceAll(s, "-", ""))
		if got := strings.ReplaceAll(id.String(), "-", ""); got != digits {
			t.Errorf("%q is read as %s", s, id)
		}
		var text topology.NodeID
		if err := text.UnmarshalText([]byte(id.String())); err != nil || topology.DriveID(text) != id {
			t.Errorf("%s is read as %s, %v", id, text, err)
		}
	})
}
