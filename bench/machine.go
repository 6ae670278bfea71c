package main

import (
	"bufio"
	"crypto/md5"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// machine is where the figures come from.
type machine struct {
	CPU        string  `json:"cpu"`
	Processors int     `json:"processors"`
	MemoryGiB  float64 `json:"memory_gib"`
	Kernel     string  `json:"kernel"`
	FileSystem string  `json:"file_system"` // of the drives' directories
	Go         string  `json:"go"`          // of the load generator
	// MD5 of one core in 10^9 bytes a second: the unit by which the figures of
	// two machines compare.
	MD5 float64 `json:"md5_gb_per_second"`
	// Load is the average number of threads that wanted to run during the minute
	// before: above 0.1 or so a processor, rates and latencies mean little.
	Load float64 `json:"load"`
	// Sync is the median time of a write of 4 KiB and its fdatasync.
	Sync float64 `json:"fdatasync_p50_ms"`
}

// readMachine describes this machine. What cannot be found out stays empty. The
// speed of MD5 is measured over n bytes.
func readMachine(dir string, n int) machine {
	m := machine{Processors: runtime.NumCPU(), Go: runtime.Version(), MD5: measureMD5(n), Sync: measureSync(dir, 50)}
	m.CPU = procField("/proc/cpuinfo", "model name")
	var kib int64
	if _, err := fmt.Sscanf(procField("/proc/meminfo", "MemTotal"), "%d kB", &kib); err == nil {
		m.MemoryGiB = float64(kib) / (1 << 20)
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		if _, err := fmt.Sscan(string(text), &m.Load); err != nil {
			m.Load = 0
		}
	}
	if text, err := os.ReadFile("/proc/sys/kernel/osrelease"); err == nil {
		m.Kernel = strings.TrimSpace(string(text))
	}
	var fs syscall.Statfs_t
	if syscall.Statfs(dir, &fs) == nil {
		m.FileSystem = fileSystem(int64(fs.Type))
	}
	return m
}

// fileSystem names a magic number of statfs(2).
func fileSystem(magic int64) string {
	switch magic {
	case 0xEF53:
		return "ext4"
	case 0x58465342:
		return "xfs"
	case 0x01021994:
		return "tmpfs"
	case 0x9123683E:
		return "btrfs"
	case 0x794C7630:
		return "overlayfs"
	}
	return fmt.Sprintf("%#x", magic)
}

// procField returns the value of the first line "name : value" of a file.
func procField(file, name string) string {
	f, err := os.Open(file)
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if key, value, found := strings.Cut(lines.Text(), ":"); found && strings.TrimSpace(key) == name {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// measureMD5 returns the speed of MD5 over n bytes, in 10^9 bytes a second of
// CPU time, the best of three: other work on the machine only slows it.
func measureMD5(n int) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	data := make([]byte, 1<<20)
	var best float64
	for range 3 {
		begin := threadTime()
		h := md5.New()
		for range n / len(data) / 3 {
			h.Write(data)
		}
		h.Sum(nil)
		if used := threadTime() - begin; used > 0 {
			best = max(best, float64(n/len(data)/3*len(data))/1e9/used.Seconds())
		}
	}
	return best
}

// threadTime returns the CPU time that the calling thread has used.
func threadTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measureSync returns the median time of an append of 4 KiB and its fdatasync
// in milliseconds; 0 if the directory cannot be written.
func measureSync(dir string, n int) float64 {
	f, err := os.CreateTemp(dir, "ruche-bench-sync-")
	if err != nil {
		return 0
	}
	defer os.Remove(filepath.Clean(f.Name()))
	defer f.Close()
	times := make([]time.Duration, n)
	for i := range times {
		begin := time.Now()
		if _, err := f.Write(make([]byte, 4096)); err != nil {
			return 0
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return 0
		}
		times[i] = time.Since(begin)
	}
	slices.Sort(times)
	return float64(quantile(times, 0.5)) / float64(time.Millisecond)
}
