package process

import (
	"errors"
	"os"
	"testing"
	"time"
)

func TestParseStat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		want       time.Duration
		bad        bool
	}{
		{name: "plain", text: "42 (ruche) S 1 42 42 0 -1 4194560 900 0 3 0 123 45 7 8 20 0 9 0 1000 5 6\n", want: 1680 * time.Millisecond},
		{name: "blanks and parentheses in the command", text: "7 (a) b (c) R 1 7 7 0 -1 0 0 0 0 0 1 2 0 0 20 0 1 0 5", want: 30 * time.Millisecond},
		{name: "no command", text: "7 S 1 7", bad: true},
		{name: "cut short", text: "7 (x) S 1 7 7 0 -1 0 0 0 0 0 1", bad: true},
		{name: "not a number", text: "7 (x) S 1 7 7 0 -1 0 0 0 0 0 1 -2 0 0 20", bad: true},
		{name: "empty", bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseStat([]byte(c.text))
			if got != c.want || errors.Is(err, ErrFormat) != c.bad {
				t.Errorf("parseStat = %v, %v; want %v, error %v", got, err, c.want, c.bad)
			}
		})
	}
}

func TestParseStatus(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text string
		want       Memory
		bad        bool
	}{
		{name: "both", text: "Name:\truche\nVmPeak:\t 99 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t3\n", want: Memory{Resident: 1 << 20, Peak: 2 << 20}},
		{name: "first line", text: "VmRSS:\t1 kB\nVmHWM:\t2 kB", want: Memory{Resident: 1 << 10, Peak: 2 << 10}},
		{name: "a zombie has none", text: "Name:\truche\nState:\tZ (zombie)\n", bad: true},
		{name: "other unit", text: "VmRSS:\t1 MB\nVmHWM:\t2 kB\n", bad: true},
		{name: "negative wraps nowhere", text: "VmRSS:\t99999999999999999999 kB\nVmHWM:\t2 kB\n", bad: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			got, err := parseStatus([]byte(c.text))
			if got != c.want || errors.Is(err, ErrFormat) != c.bad {
				t.Errorf("parseStatus = %+v, %v; want %+v, error %v", got, err, c.want, c.bad)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("42 (ruche) S 1 42 42 0 -1 4194560 900 0 3 0 123 45 7 8 20"))
	f.Add([]byte("VmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if d, err := parseStat(text); err != nil && d != 0 {
			t.Errorf("parseStat = %v with %v", d, err)
		}
		if m, err := parseStatus(text); err != nil && m != (Memory{}) {
			t.Errorf("parseStatus = %+v with %v", m, err)
		}
	})
}

func TestOfThisProcess(t *testing.T) {
	t.Parallel()
	if _, err := CPU(os.Getpid()); err != nil {
		t.Error(err)
	}
	before, err := ReadMemory(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if before.Resident < 1<<20 || before.Peak < before.Resident/2 {
		t.Errorf("memory = %+v", before)
	}
	if err := ResetPeak(os.Getpid()); err != nil && !errors.Is(err, os.ErrPermission) {
		t.Error(err)
	}
	if _, err := CPU(-1); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("CPU of no process: %v", err)
	}
}
