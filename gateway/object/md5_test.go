package object

import (
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
)

// TestLanes puts more long bodies at once than there are lanes, some of which
// break off: every ETag is right, and the lanes come back clean.
func TestLanes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, setup{})
	broken := errors.New("connection reset")
	for round := range 3 {
		var group, ready sync.WaitGroup
		ready.Add(2*maxLanes + 4)
		for i := range 2*maxLanes + 4 {
			group.Go(func() {
				data := payload(laneBytes+i*4099, uint64(round*100+i))
				// All bodies are open before any is read to its end.
				wait := readerFunc(func([]byte) (int, error) {
					ready.Done()
					ready.Wait()
					return 0, io.EOF
				})
				r := io.MultiReader(bytes.NewReader(data[:1000]), wait, bytes.NewReader(data[1000:]))
				breaks := i%5 == 4
				if breaks {
					r = io.MultiReader(bytes.NewReader(data[:1000]), wait, bytes.NewReader(data[1000:200_000+i]), failing{broken})
				}
				result, err := w.Put(t.Context(), &PutRequest{Bucket: "b", Key: fmt.Sprint(i), Body: Body{Reader: r, Bytes: int64(len(data))}})
				sum := md5.Sum(data)
				switch {
				case breaks && !errors.Is(err, broken), !breaks && err != nil:
					t.Error(err)
				case !breaks && result.ETag != hex.EncodeToString(sum[:]):
					t.Errorf("body %d: ETag %s, want %x", i, result.ETag, sum)
				}
			})
		}
		group.Wait()
	}
	l := &w.hashes.lanes
	if l.bodies.Load() != 0 || l.made == 0 || l.made > maxLanes || len(l.free) != l.made {
		t.Errorf("%d bodies, %d of %d lanes free", l.bodies.Load(), len(l.free), l.made)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
