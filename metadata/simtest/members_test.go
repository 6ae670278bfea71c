package simtest_test

// membership is which stores the cluster is to have.
type membership struct {
	*sim
}

func newMembership(s *sim, first []uint64) *membership { return &membership{sim: s} }

func (m *membership) busy() bool        { return false }
func (m *membership) unsettled() string { return "" }
func (m *membership) change()           {}

// replace lets a new store take the place of one that is lost.
func (s *sim) replace(h *host) {}
