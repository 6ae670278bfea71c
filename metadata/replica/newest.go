package replica

import "github.com/ruche-storage/ruche/metadata/state"

// Newest returns the order of the newest change that the store has applied in
// any group, in microseconds since 1970, 0 for none. It may be called at any
// time.
func (s *Store) Newest() (order uint64, err error) {
	for g := range uint32(groupCount) {
		err = s.View(g, func(v state.View, _ uint64) error {
			h, err := v.Head(g)
			order = max(order, h.Order)
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	return order, nil
}
