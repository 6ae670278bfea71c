package kill

import (
	"errors"
	"testing"
)

// planted is one step of a history: a call, whether it was answered, or a read
// after a restart and what the model must say of it.
type planted struct {
	text   string // content; "-": none, that is to delete, or to find nothing
	read   bool
	acked  bool  // of a call
	expect error // of a read
}

// TestModelFindsPlantedLosses gives the checker histories of servers that keep
// their word and of some that do not.
func TestModelFindsPlantedLosses(t *testing.T) {
	t.Parallel()
	put := func(v string) planted { return planted{text: v, acked: true} }
	cut := func(v string) planted { return planted{text: v} }
	read := func(v string) planted { return planted{text: v, read: true} }
	bad := func(v string, err error) planted { return planted{text: v, read: true, expect: err} }
	for _, c := range []struct {
		name    string
		history []planted
	}{
		{"kept", []planted{put("a"), read("a"), read("a")}},
		{"lost", []planted{put("a"), bad("-", ErrLost)}},
		{"lost later", []planted{put("a"), read("a"), bad("-", ErrLost)}},
		{"lost by an overwrite without an answer", []planted{put("a"), cut("b"), bad("-", ErrLost)}},
		{"overwrite, old", []planted{put("a"), cut("b"), read("a")}},
		{"overwrite, new", []planted{put("a"), cut("b"), read("b")}},
		{"overwrite settles once it was seen", []planted{put("a"), cut("b"), read("b"), bad("a", ErrStale)}},
		{"overwrite does not happen after it was seen not to", []planted{put("a"), cut("b"), read("a"), bad("b", ErrStale)}},
		{"acknowledged overwrite undone", []planted{put("a"), put("b"), bad("a", ErrStale)}},
		{"older content although the newest may be missing", []planted{put("a"), put("b"), cut("c"), bad("a", ErrStale)}},
		{"mixed", []planted{put("aaaa"), cut("bbbb"), bad("aabb", ErrWrong)}},
		{"cut short", []planted{put("aaaa"), bad("aa", ErrWrong)}},
		{"half of what was not answered", []planted{cut("aaaa"), bad("aa", ErrWrong)}},
		{"empty where there was content", []planted{put("aaaa"), bad("", ErrWrong)}},
		{"an empty object is an object", []planted{put(""), read(""), bad("-", ErrLost)}},
		{"deleted", []planted{put("a"), put("-"), read("-")}},
		{"resurrected", []planted{put("a"), put("-"), bad("a", ErrBack)}},
		{"resurrected later", []planted{put("a"), put("-"), read("-"), bad("a", ErrBack)}},
		{"delete without an answer, still there", []planted{put("a"), cut("-"), read("a")}},
		{"delete without an answer, gone", []planted{put("a"), cut("-"), read("-"), bad("a", ErrBack)}},
		{"deleted, then an overwrite without an answer", []planted{put("a"), put("-"), cut("b"), bad("a", ErrStale)}},
		{"first write without an answer", []planted{cut("a"), read("-")}},
		{"several without an answer", []planted{put("a"), cut("b"), cut("c"), cut("-"), read("b"), bad("c", ErrStale)}},
		{"an answer ends doubts", []planted{cut("b"), put("c"), bad("b", ErrStale)}},
		{"same content again", []planted{put("a"), put("-"), put("a"), read("a")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m := NewModel()
			for i, step := range c.history {
				if step.read {
					if err := m.Observe("k", content(step.text)); !errors.Is(err, step.expect) || (err == nil) != (step.expect == nil) {
						t.Errorf("step %d: Observe(%q) = %v, want %v", i, step.text, err, step.expect)
					}
					continue
				}
				m.Begin("k", content(step.text))
				if step.acked {
					m.Ack("k")
				}
			}
		})
	}
}

// content is the value of a text; "-" is none.
func content(text string) Value {
	if text == "-" {
		return Value{}
	}
	id := uint64(1)
	for _, b := range []byte(text) {
		id = id*257 + uint64(b)
	}
	return Sum(id, []byte(text))
}

func TestModelOfUnknownKey(t *testing.T) {
	t.Parallel()
	m := NewModel()
	if err := m.Observe("k", Value{}); err != nil {
		t.Error(err)
	}
	if err := m.Observe("k", content("a")); !errors.Is(err, ErrWrong) {
		t.Errorf("a key that was never written: %v", err)
	}
	m.Begin("b", content("x"))
	m.Begin("a", content("x"))
	if got := m.Touched(); len(got) != 2 || got[0] != "a" {
		t.Errorf("Touched = %q", got)
	}
	if got := m.Touched(); len(got) != 0 || len(m.Keys()) != 2 {
		t.Errorf("Touched again = %q, Keys = %q", got, m.Keys())
	}
}

func TestCompareListing(t *testing.T) {
	t.Parallel()
	a, b := Entry{"a", 1, "x"}, Entry{"b", 2, "y"}
	for _, c := range []struct {
		name          string
		listed, heads []Entry
		ok            bool
	}{
		{"same", []Entry{a, b}, []Entry{b, a}, true},
		{"none", nil, nil, true},
		{"not listed", []Entry{a}, []Entry{a, b}, false},
		{"only listed", []Entry{a, b}, []Entry{a}, false},
		{"twice", []Entry{a, a}, []Entry{a}, false},
		{"other size", []Entry{{"a", 2, "x"}}, []Entry{a}, false},
		{"other tag", []Entry{{"a", 1, "y"}}, []Entry{a}, false},
	} {
		if err := CompareListing(c.listed, c.heads); (err == nil) != c.ok || (err != nil && !errors.Is(err, ErrListed)) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestValue(t *testing.T) {
	t.Parallel()
	a, data := NewValue(7, 100)
	again, same := NewValue(7, 100)
	if a != again || string(data) != string(same) || a != Sum(7, data) || a.Absent() || len(data) != 100 {
		t.Errorf("values %v and %v", a, again)
	}
	if b, _ := NewValue(8, 100); b.SHA256 == a.SHA256 {
		t.Error("different ids have the same bytes")
	}
}
