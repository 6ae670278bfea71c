package server

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ruche-storage/ruche/metadata/topology"
)

// placesOn makes places on drives d1, d2, ... of the devices named, the last of
// which is that of the state directory s.
func placesOn(devices string) (out []place) {
	names := strings.Fields(devices)
	for i, d := range names[:len(names)-1] {
		out = append(out, place{fmt.Sprintf("/d%d/meta", i+1), topology.DriveID{byte(i + 1)}, d})
	}
	return append(out, place{path: "/s", device: names[len(names)-1]})
}

func wheres(places []place) string {
	var out []string
	for _, p := range places {
		out = append(out, strings.TrimPrefix(p.where(), "/"))
	}
	return strings.Join(out, " ")
}

func TestPlacesOfCopies(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		devices string // of the drives, and of the state directory
		parity  int
		auto    int
		want    string // where auto puts them
	}{
		{"a a a a a a a", 2, 1, "s"},
		{"a a a a a a b", 2, 1, "s"},
		{"a b", 0, 1, "s"},
		{"a b c", 1, 3, "d1 d2 s"},
		{"a b a", 1, 1, "s"},
		{"a b c d", 1, 3, "d1 d2 d3"},
		{"a b c d e", 2, 5, "d1 d2 d3 d4 s"},
		{"a b c d a", 2, 3, "d1 d2 d3"},
		{"a b c d e s", 2, 5, "d1 d2 d3 d4 d5"},
		{"a b c d e f s", 2, 5, "d1 d2 d3 d4 d5"},
		{"a a b b c c s", 2, 3, "d1 d3 d5"},
		{"a a b b c c d d s", 3, 5, "d1 d3 d5 d7 s"},
	} {
		places := placesOn(c.devices)
		n := autoReplicas(c.parity, places)
		if n != c.auto {
			t.Errorf("%s, parity %d: %d copies, want %d", c.devices, c.parity, n, c.auto)
		}
		chosen := choosePlaces(places, n)
		if got := wheres(chosen); got != c.want {
			t.Errorf("%s, parity %d: copies in %s, want %s", c.devices, c.parity, got, c.want)
		}
		if shared := sharedDevices(chosen); len(shared) > 0 {
			t.Errorf("%s: auto shares devices: %v", c.devices, shared)
		}
	}
}

func TestCopiesOnFewerDevices(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		devices string
		n       int
		want    string
		shared  []string
	}{
		{"a a a a a a a", 3, "d1 d2 d3", []string{"the copies of the metadata in /d1, /d2, /d3 are on one device: its loss takes 3 of 3"}},
		{"a a a b", 3, "d1 s d2", []string{"the copies of the metadata in /d1, /d2 are on one device: its loss takes 2 of 3"}},
		{"a a b b c c", 5, "d1 d3 d5 d2 d4", []string{
			"the copies of the metadata in /d1, /d2 are on one device: its loss takes 2 of 5",
			"the copies of the metadata in /d3, /d4 are on one device: its loss takes 2 of 5",
		}},
		{"a b", 3, "d1 s", nil}, // all there is
	} {
		chosen := choosePlaces(placesOn(c.devices), c.n)
		if got := wheres(chosen); got != c.want {
			t.Errorf("%s: copies in %s, want %s", c.devices, got, c.want)
		}
		if diff := cmp.Diff(c.shared, sharedDevices(chosen)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.devices, diff)
		}
	}
}

// TestUnknownDevices takes a device that cannot be told for one of its own.
func TestUnknownDevices(t *testing.T) {
	t.Parallel()
	places := []place{{path: "/d1/meta", drive: topology.DriveID{1}}, {path: "/d2/meta", drive: topology.DriveID{2}}, {path: "/s"}}
	if n := deviceCount(places); n != 3 {
		t.Errorf("%d devices, want 3", n)
	}
	p, ok := nextPlace(places, places[:1])
	if !ok || p.path != "/d2/meta" {
		t.Errorf("next place is %v %v, want /d2/meta", p, ok)
	}
	if _, ok := nextPlace(places, places); ok {
		t.Error("there is a place though all are taken")
	}
}
