package linear

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// A Key is one key and what was asked of it. It is safe for concurrent use.
type Key struct {
	Name string

	mu      sync.Mutex
	ops     []porcupine.Operation
	uploads int
	unknown int      // writes without an answer
	seen    []string // ETags that were read or written last, newest at the end
}

// rememberTags is how many ETags of a key are kept for conditions.
const rememberTags = 4

// Add notes a call and its answer, with times of any clock that all share.
// Calls that were refused for sure need not be noted.
func (k *Key) Add(client int, begin, end int64, in *Input, out *Output) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if out.Answer == Unknown {
		if in.Kind == Read || in.Kind == List {
			return // says nothing
		}
		end = never
		k.unknown++
	}
	k.ops = append(k.ops, porcupine.Operation{ClientId: client, Input: in, Call: begin, Output: out, Return: end})
	if tag := max(in.ETag, out.ETag); tag != "" && out.Answer == OK {
		if len(k.seen) == rememberTags {
			k.seen = slices.Delete(k.seen, 0, 1)
		}
		k.seen = append(k.seen, tag)
	}
}

// upload returns the number of a new upload, false if there were too many.
func (k *Key) upload() (uint8, bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.uploads == MaxUploads {
		return 0, false
	}
	k.uploads++
	return uint8(k.uploads - 1), true
}

// tag returns an ETag that the object had not long ago, the older the higher
// back is; empty if none is known.
func (k *Key) tag(back int) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.seen) == 0 {
		return ""
	}
	return k.seen[max(len(k.seen)-1-back, 0)]
}

// doubts returns how many writes have no answer.
func (k *Key) doubts() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.unknown
}

// Check looks for an order that explains all answers, for at most so long. The
// error names the key and lists its calls.
func (k *Key) Check(timeout time.Duration) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	result := porcupine.CheckOperationsTimeout(Spec(), k.ops, timeout)
	if result == porcupine.Ok {
		return nil
	}
	reason := "has no order of its calls that explains the answers"
	if result == porcupine.Unknown {
		reason = fmt.Sprintf("was not decided in %v", timeout)
	}
	return fmt.Errorf("%s: %d calls, %d without an answer: the history %s\n%s", k.Name, len(k.ops), k.unknown, reason, k.list())
}

// list returns the calls in the order of their beginnings.
func (k *Key) list() string {
	ops := slices.Clone(k.ops)
	slices.SortStableFunc(ops, func(a, b porcupine.Operation) int { return int(a.Call - b.Call) })
	var text strings.Builder
	for _, o := range ops {
		end := "?"
		if o.Return != never {
			end = fmt.Sprint(time.Duration(o.Return).Round(time.Microsecond))
		}
		fmt.Fprintf(&text, "  [%v, %s] client %d: %s\n", time.Duration(o.Call).Round(time.Microsecond), end, o.ClientId, describe(o.Input.(*Input), o.Output.(*Output)))
	}
	return text.String()
}
