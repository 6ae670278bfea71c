// Package durability computes how likely it is that erasure-coded data is lost:
// a model whose assumptions are its input. It measures nothing.
//
// Drives fail independently of each other, at a constant rate. The shards of a
// failed drive are made anew one drive after the other, each in the same time,
// however many are missing at once. A stripe is lost when more shards are missing
// than it has parity.
//
// Whole sites may be destroyed as well, with all their drives. Until what was
// there is on other sites, nothing that fails on top is counted as repaired.
//
// What the model leaves out: faults of software, mistakes and intent of people,
// drives of one batch that fail together, power that several sites lose at once,
// and rot that no scrub has found yet.
package durability

import (
	"fmt"
	"time"
)

// Year is the unit of rates.
const Year = 8766 * time.Hour

// A Model is what is assumed of a cluster.
type Model struct {
	Data, Parity int           // of a stripe: any Data shards read it
	Sites        int           // the shards of a stripe are spread over them as evenly as can be
	Drives       int           // in the cluster
	Groups       int           // placement groups: tuples of drives that hold stripes
	AFR          float64       // the share of drives that fail in a year
	Repair       time.Duration // until the shards of a failed drive are on other drives
	SiteLoss     float64       // the share of sites that are destroyed in a year
	Reprotect    time.Duration // until the shards of a destroyed site are on other sites
}

// An InputError names the field of a [Model] that makes no sense.
type InputError struct {
	Field  string // its name in Model
	Reason string
}

func (e *InputError) Error() string { return fmt.Sprintf("durability: %s %s", e.Field, e.Reason) }

// Validate reports what is wrong with a model: an *InputError, or nil.
func (m *Model) Validate() error {
	n := m.stripe()
	for _, c := range []struct {
		ok            bool
		field, reason string
	}{
		{m.Data >= 1, "Data", "must be at least 1"},
		{m.Parity >= 0, "Parity", "must not be negative"},
		{n <= 255, "Parity", fmt.Sprintf("makes stripes of %d shards, more than 255", n)},
		{m.Sites >= 1 && m.Sites <= n, "Sites", fmt.Sprintf("must be from 1 to the %d shards of a stripe", n)},
		{m.Drives >= n, "Drives", fmt.Sprintf("must be at least the %d that a stripe is on", n)},
		{m.Groups >= 1, "Groups", "must be at least 1"},
		{m.AFR > 0 && m.AFR < 1, "AFR", "must be more than 0 and less than 100 %"},
		{m.Repair > 0, "Repair", "must be more than 0"},
		{m.SiteLoss >= 0 && m.SiteLoss < 1, "SiteLoss", "must be at least 0 and less than 100 %"},
		{m.Reprotect > 0, "Reprotect", "must be more than 0"},
	} {
		if !c.ok {
			return &InputError{c.field, c.reason}
		}
	}
	return nil
}

// stripe is the number of shards of a stripe.
func (m *Model) stripe() int { return m.Data + m.Parity }

// OnSite is how many shards of a stripe the i-th site holds, from 0; the first
// sites hold the most.
func (m *Model) OnSite(i int) int {
	n := m.stripe() / m.Sites
	if i < m.stripe()%m.Sites {
		n++
	}
	return n
}

// Margin is how many more shards a stripe may lose when the site with the most of
// them is gone; negative if a stripe does not survive that.
func (m *Model) Margin() int { return m.Parity - m.OnSite(0) }
