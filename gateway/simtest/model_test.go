package simtest

import (
	"slices"
	"testing"
)

func TestModel(t *testing.T) {
	t.Parallel()
	a, b, c := NewValue(1, 10), NewValue(2, 10), NewValue(3, 0)
	m := NewModel()
	want := func(since int, values ...*Value) {
		t.Helper()
		got := m.Possible("k", since)
		if len(got) != len(values) || slices.ContainsFunc(values, func(v *Value) bool { return !slices.Contains(got, v) }) {
			t.Errorf("possible is %s, want %s", Describe(got...), Describe(values...))
		}
	}
	want(m.Now(), nil)
	before := m.Now()
	first := m.Begin("k", a)
	want(m.Now(), nil, a)
	first.Done(a)
	want(m.Now(), a)
	want(before, nil, a)
	second, third := m.Begin("k", b), m.Begin("k", c, nil)
	second.Done(b)
	want(m.Now(), b, c, nil)
	if got := third.PossibleBeside(); !slices.Contains(got, a) || !slices.Contains(got, b) || slices.Contains(got, c) {
		t.Errorf("beside the third %s", Describe(got...))
	}
	cut := m.Clone(nil)
	third.Failed()
	want(m.Now(), b)
	if err := m.Settle("k", c); err == nil {
		t.Error("settled on what it cannot be")
	}
	if err := cut.Settle("k", nil); err != nil {
		t.Error(err)
	}
	if m = cut; len(m.Names()) != 0 {
		t.Errorf("names %v", m.Names())
	}
	third.Done(c) // of the other model: nothing happens here
	want(m.Now(), nil)
	overlap, later := m.Begin("k", a), m.Begin("k", b)
	later.Done(b)
	overlap.Done(a)
	want(m.Now(), a, b)
	last := m.Begin("k", nil)
	last.Done(nil)
	want(m.Now(), nil)
	if got, err := m.Match("k", m.Now(), a.Bytes, a.ETag); err == nil {
		t.Errorf("found %s after it was deleted", Describe(got))
	}
}

func TestJoin(t *testing.T) {
	t.Parallel()
	parts := []*Value{NewValue(1, 5), NewValue(2, 0)}
	if v := Join(parts); len(v.Bytes) != 5 || v.ETag[32:] != "-2" {
		t.Errorf("joined %d bytes, %s", len(v.Bytes), v.ETag)
	}
}
