package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is the unit of the times in /proc/PID/stat: USER_HZ, which is
// 100 on every architecture that Go runs Linux on.
const ticksPerSecond = 100

// ErrFormat means that a file of procfs does not look as proc(5) says.
var ErrFormat = errors.New("unexpected format")

// CPU returns the user and system time that process pid has used so far,
// without its children, in steps of 10 ms.
func CPU(pid int) (time.Duration, error) {
	text, err := os.ReadFile(procFile(pid, "stat"))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	return parseStat(text)
}

// parseStat returns utime + stime, the fields 14 and 15 of /proc/PID/stat. The
// second field is the command in parentheses and may hold anything, blanks and
// parentheses too, so that fields are counted from the last parenthesis.
func parseStat(text []byte) (time.Duration, error) {
	end := bytes.LastIndexByte(text, ')')
	if end < 0 {
		return 0, fmt.Errorf("stat without a command: %w", ErrFormat)
	}
	const utime, stime = 14 - 3, 15 - 3 // the first field after the command is the third
	fields := bytes.Fields(text[end+1:])
	if len(fields) <= stime {
		return 0, fmt.Errorf("stat with %d fields: %w", len(fields)+2, ErrFormat)
	}
	var ticks uint64
	for _, i := range []int{utime, stime} {
		n, err := strconv.ParseUint(string(fields[i]), 10, 63)
		if err != nil {
			return 0, fmt.Errorf("time in stat: %w: %w", ErrFormat, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / ticksPerSecond), nil
}

// Memory is what a process occupies, in bytes.
type Memory struct {
	Resident int64 // now
	Peak     int64 // most since the start of the process or the last [ResetPeak]
}

// ReadMemory returns the memory of process pid.
func ReadMemory(pid int) (Memory, error) {
	text, err := os.ReadFile(procFile(pid, "status"))
	if err != nil {
		return Memory{}, fmt.Errorf("read memory: %w", err)
	}
	return parseStatus(text)
}

// parseStatus reads VmRSS and VmHWM of /proc/PID/status.
func parseStatus(text []byte) (Memory, error) {
	var m Memory
	for _, f := range []struct {
		name string
		to   *int64
	}{{"VmRSS:", &m.Resident}, {"VmHWM:", &m.Peak}} {
		_, rest, found := strings.Cut("\n"+string(text), "\n"+f.name)
		if !found {
			return Memory{}, fmt.Errorf("status without %s %w", f.name, ErrFormat)
		}
		line, _, _ := strings.Cut(rest, "\n")
		fields := strings.Fields(line)
		if len(fields) != 2 || fields[1] != "kB" {
			return Memory{}, fmt.Errorf("status with %s%s: %w", f.name, line, ErrFormat)
		}
		n, err := strconv.ParseInt(fields[0], 10, 53)
		if err != nil {
			return Memory{}, fmt.Errorf("status with %s%s: %w: %w", f.name, line, ErrFormat, err)
		}
		*f.to = n << 10
	}
	return m, nil
}

// ResetPeak makes the peak of process pid its memory of now. It needs the
// rights of the process's user.
func ResetPeak(pid int) error {
	// proc(5): writing 5 to clear_refs resets the peak resident set size.
	if err := os.WriteFile(procFile(pid, "clear_refs"), []byte("5"), 0); err != nil {
		return fmt.Errorf("reset peak memory: %w", err)
	}
	return nil
}

func procFile(pid int, name string) string {
	return filepath.Join("/proc", strconv.Itoa(pid), name)
}
