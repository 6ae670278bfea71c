package server

import "syscall"

// memory is how many bytes the machine has, 0 if that is not known. The setting
// memory-limit says nothing here: it is for the heap, of which memtables are no
// part.
func memory() uint64 {
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return 0
	}
	return uint64(info.Totalram) * uint64(info.Unit)
}

// turnBytes is how much a copy of the metadata writes to its log between two
// turns. It holds about five times as much in memory while it is busy, so all
// copies together take no more than about a tenth of the memory there is. On its
// device it takes up to four times as much beside its rows, for which the
// smallest of the reserves that copies have there must do: shards take all the
// rest. A reserve of 0 is not known. Larger turns save little above the upper
// bound.
func turnBytes(memory uint64, copies int, reserves []int64) uint64 {
	const least, most = 2 << 20, 16 << 20
	turn := min(memory/50/uint64(copies), most)
	for _, r := range reserves {
		if r > 0 {
			turn = min(turn, uint64(r)/2)
		}
	}
	return max(turn, least)
}
