package main

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"github.com/ruche-storage/ruche/bench/client"
)

const (
	kib = int64(1) << 10
	mib = int64(1) << 20
	gib = int64(1) << 30
)

// op is what a step does again and again.
type op string

const (
	opPut       op = "PUT"
	opGet       op = "GET"
	opHead      op = "HEAD"
	opList      op = "LIST"      // pages of 1,000 keys; the key is the unit
	opDelete    op = "DELETE"    // of objects made before
	opMultipart op = "MULTIPART" // each client uploads objects part by part
	opUpload    op = "UPLOAD"    // all clients upload the parts of one object
)

// step is one line of the report.
type step struct {
	Op      op
	Size    int64 // of an object
	Part    int64 // of multipart uploads; 0: none
	Clients int
	Payload client.Payload
}

// String is the name of the step, by which --steps selects it.
func (s step) String() string {
	b := new(strings.Builder)
	b.WriteString(string(s.Op))
	if s.Size > 0 {
		b.WriteByte(' ')
		b.WriteString(formatSize(s.Size))
	}
	if s.Part > 0 {
		b.WriteString("/" + formatSize(s.Part))
	}
	fmt.Fprintf(b, " c%d", s.Clients)
	if s.Payload != client.Streaming && (s.Op == opPut || s.Part > 0) {
		b.WriteString(" " + payloadNames[s.Payload])
	}
	return b.String()
}

var payloadNames = []string{client.Streaming: "streaming", client.Unsigned: "unsigned", client.Hashed: "hashed"}

// parsePayload reads a name of payloadNames.
func parsePayload(name string) (client.Payload, error) {
	for i, n := range payloadNames {
		if n == name {
			return client.Payload(i), nil
		}
	}
	return 0, fmt.Errorf("payload %q is not one of %s", name, strings.Join(payloadNames, ", "))
}

// matrix is all steps for some sizes and numbers of clients. Objects of 64 MiB
// and more are also uploaded in parts of 16 MiB, as clients do.
func matrix(sizes []int64, clients []int, payload client.Payload, large bool) []step {
	const part = 16 * mib
	var steps []step
	for _, size := range sizes {
		for _, c := range clients {
			steps = append(steps, step{Op: opPut, Size: size, Clients: c, Payload: payload})
			if size >= 64*mib {
				steps = append(steps, step{Op: opMultipart, Size: size, Part: part, Clients: c, Payload: payload})
			}
			steps = append(steps, step{Op: opGet, Size: size, Clients: c})
		}
	}
	for _, o := range []op{opHead, opList, opDelete} {
		for _, c := range clients {
			steps = append(steps, step{Op: o, Clients: c})
		}
	}
	if large {
		steps = append(steps,
			step{Op: opPut, Size: gib, Clients: 1, Payload: client.Unsigned},
			step{Op: opGet, Size: gib, Clients: 1},
			step{Op: opUpload, Size: gib, Part: part, Clients: 8, Payload: payload})
	}
	return steps
}

// choose returns the steps whose names match.
func choose(steps []step, match *regexp.Regexp) []step {
	var chosen []step
	for _, s := range steps {
		if match.MatchString(s.String()) {
			chosen = append(chosen, s)
		}
	}
	return chosen
}

// parseSize reads a number of bytes such as 4096, 128KiB or 1GiB.
func parseSize(text string) (int64, error) {
	number, unit := text, int64(1)
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"GiB", gib}, {"MiB", mib}, {"KiB", kib}, {"B", 1}} {
		if n, found := strings.CutSuffix(text, u.suffix); found {
			number, unit = n, u.bytes
			break
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > (1<<50)/unit {
		return 0, fmt.Errorf("size %q is not like 4096, 128KiB, 10MiB or 1GiB", text)
	}
	return n * unit, nil
}

// formatSize writes a number of bytes in the largest unit that divides it.
func formatSize(n int64) string {
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"GiB", gib}, {"MiB", mib}, {"KiB", kib}} {
		if n >= u.bytes && n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt(n, 10) + "B"
}

// parseList reads comma separated values.
func parseList[T any](text string, parse func(string) (T, error)) ([]T, error) {
	var list []T
	for item := range strings.SplitSeq(text, ",") {
		v, err := parse(strings.TrimSpace(item))
		if err != nil {
			return nil, err
		}
		list = append(list, v)
	}
	return list, nil
}

// parseCount reads a number of clients.
func parseCount(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > 4096 {
		return 0, fmt.Errorf("%q clients: %w", text, cmp.Or(err, fmt.Errorf("not between 1 and 4096")))
	}
	return n, nil
}
