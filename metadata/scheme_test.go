package metadata

import "testing"

func TestSchemeValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		scheme Scheme
		good   bool
	}{
		{NewScheme(1, 0), true},
		{NewScheme(8, 4), true},
		{NewScheme(28, 4), true},
		{NewScheme(29, 4), false},
		{NewScheme(0, 2), false},
		{Scheme{Data: 4, Parity: 2, Code: CodeVandermonde + 1, CellLog2: CellLog2}, false},
		// Cells of other lengths have numbers in the formats and no code.
		{Scheme{Data: 4, Parity: 2, Code: CodeVandermonde, CellLog2: CellLog2 - 1}, false},
		{Scheme{Data: 4, Parity: 2, Code: CodeVandermonde, CellLog2: CellLog2 + 1}, false},
		{Scheme{}, false},
	} {
		if err := c.scheme.Validate(); (err == nil) != c.good {
			t.Errorf("%+v: %v", c.scheme, err)
		}
	}
}
