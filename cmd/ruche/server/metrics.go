package server

import (
	"context"
	"strconv"
	"time"

	"github.com/ruche-storage/ruche/gateway/admin"
	"github.com/ruche-storage/ruche/metadata/replica"
	"github.com/ruche-storage/ruche/node"
)

// gather asks all parts for their figures. What the S3 gateway counts is
// collected beside it.
func (c *control) gather() []admin.Family {
	out := c.driveFamilies()
	out = append(out, c.engineFamilies()...)
	out = append(out, c.backgroundFamilies()...)
	out = append(out, c.manifestFamilies()...)
	out = append(out, c.metadataFamilies()...)
	out = append(out, c.copyFamilies()...)
	return append(out, c.safetyFamilies()...)
}

func one(name, help string, kind admin.Kind, v float64) admin.Family {
	return admin.Family{Name: name, Help: help, Kind: kind, Values: []admin.Value{{Number: v}}}
}

func (c *control) driveFamilies() []admin.Family {
	all := c.p.node.Metrics()
	status := all.Drives
	family := func(name, help string, kind admin.Kind, f func(node.DriveStatus) float64) admin.Family {
		out := admin.Family{Name: "drive_" + name, Help: help, Kind: kind, Labels: []string{"drive", "path"}}
		for _, s := range status {
			out.Values = append(out.Values, admin.Value{Labels: []string{s.ID.String(), s.Path}, Number: f(s)})
		}
		return out
	}
	states := admin.Family{Name: "drive_state", Help: "1 for the state that the drive is in.", Labels: []string{"drive", "path", "state"}}
	for _, s := range status {
		for _, state := range []node.DriveState{node.StateOnline, node.StateFull, node.StateFenced} {
			states.Values = append(states.Values, admin.Value{Labels: []string{s.ID.String(), s.Path, string(state)}, Number: flag(s.State == state)})
		}
	}
	now := c.p.Now()
	g, n := admin.Gauge, admin.Counter
	return []admin.Family{
		states,
		one("node_buffer_bytes", "Memory of small shards on their way to a drive.", g, float64(all.BufferBytes)),
		one("node_buffer_limit_bytes", "Memory that such shards may use.", g, float64(all.BufferLimitBytes)),
		one("node_open_files", "Segment files open for reading.", g, float64(all.OpenFiles)),
		one("node_index_cache_bytes", "Memory of the indexes' cache.", g, float64(all.IndexCacheBytes)),
		one("drives_open", "Drives that are open.", g, float64(len(status))),
		one("drives_away", "Drives that could not be opened at the start.", g, float64(len(c.p.away))),
		family("capacity_bytes", "Space of the device's share.", g, func(s node.DriveStatus) float64 { return float64(s.CapacityBytes) }),
		family("free_bytes", "Space that shards may still take.", g, func(s node.DriveStatus) float64 { return float64(s.FreeBytes) }),
		family("used_bytes", "Bytes of all records and of dead space.", g, func(s node.DriveStatus) float64 { return float64(s.UsedBytes) }),
		family("live_bytes", "Bytes of records that something refers to.", g, func(s node.DriveStatus) float64 { return float64(s.LiveBytes) }),
		family("pending_bytes", "Bytes of records not known to be referred to.", g, func(s node.DriveStatus) float64 { return float64(s.PendingBytes) }),
		family("dead_bytes", "Bytes that wait for compaction.", g, func(s node.DriveStatus) float64 { return float64(s.DeadBytes) }),
		family("shards", "Shards on the drive.", g, func(s node.DriveStatus) float64 { return float64(s.Shards) }),
		family("queue_records", "Records that wait for the drive's writer.", g, func(s node.DriveStatus) float64 { return float64(s.QueueRecords) }),
		family("reads_total", "Reads of the drive.", n, func(s node.DriveStatus) float64 { return float64(s.Reads.Count) }),
		family("writes_total", "Writes to the drive.", n, func(s node.DriveStatus) float64 { return float64(s.Writes.Count) }),
		family("read_p95_seconds", "95 of 100 late reads were faster.", g, func(s node.DriveStatus) float64 { return s.Reads.P95.Seconds() }),
		family("write_p95_seconds", "95 of 100 late writes were faster.", g, func(s node.DriveStatus) float64 { return s.Writes.P95.Seconds() }),
		family("scrub_read_bytes", "Bytes read in the current scrub pass.", g, func(s node.DriveStatus) float64 { return float64(s.Scrub.Bytes) }),
		family("scrub_bad_shards", "Records found bad in the current or last scrub pass.", g, func(s node.DriveStatus) float64 { return float64(s.Scrub.Bad) }),
		family("scrub_age_seconds", "Time since the last whole scrub pass; -1 before the first.", g, func(s node.DriveStatus) float64 {
			if age, ok := s.Scrub.Age(now); ok {
				return age.Seconds()
			}
			return -1
		}),
	}
}

func (c *control) engineFamilies() []admin.Family {
	s := c.p.eng.State()
	g, n := admin.Gauge, admin.Counter
	pool := func(name, help string, f func(used, limit int64) int64) admin.Family {
		return admin.Family{Name: name, Help: help, Labels: []string{"pool"}, Values: []admin.Value{
			{Labels: []string{"write"}, Number: float64(f(s.Writes.UsedBytes, s.Writes.LimitBytes))},
			{Labels: []string{"read"}, Number: float64(f(s.Reads.UsedBytes, s.Reads.LimitBytes))},
		}}
	}
	return []admin.Family{
		pool("pool_used_bytes", "Memory of stripes in use.", func(used, _ int64) int64 { return used }),
		pool("pool_limit_bytes", "Memory that stripes may use.", func(_, limit int64) int64 { return limit }),
		one("engine_running_writes", "PUTs, parts and copies under way.", g, float64(s.RunningWrites)),
		one("engine_running_reads", "Objects being read.", g, float64(s.RunningReads)),
		one("engine_stripes_total", "Stripes coded.", n, float64(s.Stripes)),
		one("engine_plain_bytes_in_total", "Bytes of objects written.", n, float64(s.BytesIn)),
		one("engine_plain_bytes_out_total", "Bytes of objects read.", n, float64(s.BytesOut)),
		one("engine_short_writes_total", "Chunks stored with shards missing.", n, float64(s.ShortWrites)),
		one("engine_shards_passed_total", "Shards not written because their drive answers late.", n, float64(s.ShardsPassed)),
		one("engine_slow_drives", "Drives that answer much later than the others.", g, float64(len(s.Suspects))),
		one("engine_shard_write_failures_total", "Shards that a drive did not take.", n, float64(s.ShardWriteFailures)),
		one("engine_shard_reads_total", "Reads of shards.", n, float64(s.ShardReads)),
		one("engine_shard_read_failures_total", "Reads of shards that failed.", n, float64(s.ShardReadFailures)),
		one("engine_corrupt_shards_total", "Reads that found damaged bytes.", n, float64(s.CorruptShards)),
		one("engine_degraded_reads_total", "Runs of stripes that had to be decoded.", n, float64(s.DegradedRuns)),
		one("engine_hedged_reads_total", "Runs for which one more shard was asked.", n, float64(s.Hedges)),
		one("engine_unreadable_total", "Runs with too few intact shards.", n, float64(s.Unreadable)),
		one("engine_mac_failures_total", "Versions whose parts were not those that were committed.", n, float64(s.MACFailures)),
		one("engine_commit_retries_total", "Commits repeated because their outcome was unknown.", n, float64(s.CommitRetries)),
		one("engine_bracket_failures_total", "Stripes that did not decode to what was coded: the machine is faulty.", n, float64(s.BracketFailures)),
		one("engine_hanging_tasks", "Shard reads and writes that were given up and have not returned.", g, float64(s.HangingTasks)),
	}
}

// backgroundFamilies tell of repair, rebuild and collection.
func (c *control) backgroundFamilies() []admin.Family {
	repair, rebuild, collect := c.p.eng.RepairState(), c.p.eng.RebuildState(), c.p.eng.CollectState()
	left := int64(0)
	for _, d := range rebuild.Drives {
		left += max(0, d.Chunks-d.ChunksDone)
	}
	g, n := admin.Gauge, admin.Counter
	return []admin.Family{
		one("repair_queue_chunks", "Chunks that wait for repair.", g, float64(repair.Queued)),
		one("repair_running_chunks", "Chunks being repaired.", g, float64(repair.Running)),
		one("repair_dropped_total", "Reports of damage that did not fit the queue.", n, float64(repair.Dropped)),
		one("repair_chunks_total", "Chunks of which shards were made anew.", n, float64(repair.Chunks)),
		one("repair_shards_total", "Shards made anew.", n, float64(repair.Shards)),
		one("repair_bytes_total", "Bytes read and written for repair and rebuild.", n, float64(repair.Bytes)),
		one("repair_unrepairable_chunks", "Chunks with too few readable shards.", g, float64(len(repair.Unrepairable))),
		one("inventory_chunks", "Chunks compared with what drives list in the pass that runs or was the last.", g, float64(repair.Inventory.Chunks)),
		one("inventory_missing_total", "Shards found missing by that.", n, float64(repair.Inventory.Shards)),
		one("rebuild_drives", "Drives that do not hold everything yet.", g, float64(len(rebuild.Drives))),
		one("rebuild_left_chunks", "Chunks found missing on these drives.", g, float64(left)),
		one("collect_off", "1 while nothing is freed, after a restore.", g, flag(collect.Off)),
		one("collect_trash_bytes_total", "Bytes of deleted objects freed, without parity.", n, float64(collect.TrashBytes)),
		one("collect_trash_waiting", "Deletions that wait for readers or their time.", g, float64(collect.TrashWaits)),
		one("collect_orphans_total", "Shards freed to which nothing referred.", n, float64(collect.Orphans)),
		one("collect_quarantined", "Shards to which nothing refers, that wait.", g, float64(collect.Quarantined)),
	}
}

// manifestFamilies tell of what drives hold to bring the metadata back.
func (c *control) manifestFamilies() []admin.Family {
	m := c.p.eng.ManifestState()
	g, n := admin.Gauge, admin.Counter
	return []admin.Family{
		one("manifest_lag_seconds", "Age of the oldest change that is not in a durable manifest.", g, m.Lag.Seconds()),
		one("manifest_filling", "Drives being filled with manifests, counted once a group.", g, float64(m.Filling)),
		one("manifest_short_groups", "Groups with fewer manifest drives than they should have.", g, float64(m.Short)),
		one("manifest_versions_total", "Manifests of versions written.", n, float64(m.Versions)),
		one("manifest_deletions_total", "Manifests of deletions written.", n, float64(m.Tombstones)),
		one("manifest_skipped_total", "Objects whose manifest could not be made; an alarm.", n, float64(m.Skipped)),
		one("manifest_records_total", "Records of manifests written, each counted once a drive.", n, float64(m.Records)),
		one("manifest_bytes_total", "Bytes of these.", n, float64(m.Bytes)),
		one("manifest_failures_total", "Records of manifests that a drive did not take.", n, float64(m.Failures)),
		one("manifest_drives_replaced_total", "Manifest drives given up, counted once a group.", n, float64(m.Replaced)),
		one("manifest_freed_total", "Records of manifests freed.", n, float64(m.Freed)),
		one("manifest_unopened_total", "Records of manifests that did not open.", n, float64(m.Unopened)),
	}
}

func flag(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (c *control) metadataFamilies() []admin.Family {
	m := c.p.meta.Metrics()
	g, n := admin.Gauge, admin.Counter
	return []admin.Family{
		one("metadata_queue", "Commands that wait.", g, float64(m.Queue)),
		one("metadata_commands_total", "Commands applied.", n, float64(m.Commands)),
		one("metadata_rejections_total", "Commands answered with a rejection.", n, float64(m.Rejections)),
		one("metadata_overloads_total", "Commands refused because the queue was full.", n, float64(m.Overloads)),
		one("metadata_clock_jumps_total", "Readings of the clock that were not believed.", n, float64(m.ClockJumps)),
		one("metadata_full", "1 while commands that add are refused for want of space.", g, flag(m.Full)),
		one("metadata_failed", "1 after a write of the metadata failed.", g, flag(m.Failed)),
		one("metadata_free_bytes", "Free space of the metadata's file system.", g, float64(m.Disk.AvailBytes)),
		powers("metadata_batch_commands", "Commands in a batch.", m.Batches, 1, 10),
		powers("metadata_commit_seconds", "Time until a batch was durable.", m.Sync, float64(time.Second), 36),
	}
}

// copyFamilies tell of the copies of the metadata.
func (c *control) copyFamilies() []admin.Family {
	m, err := c.Metadata(context.Background())
	if err != nil {
		c.p.Log.Warn("metrics without the copies of the metadata", "err", err)
		return nil
	}
	family := func(name, help string, f func(*admin.CopyState) float64) admin.Family {
		out := admin.Family{Name: "metadata_copy_" + name, Help: help, Labels: []string{"replica", "path"}}
		for i := range m.Stores {
			s := &m.Stores[i]
			out.Values = append(out.Values, admin.Value{Labels: []string{strconv.FormatUint(s.Replica, 10), s.Path}, Number: f(s)})
		}
		return out
	}
	return []admin.Family{
		one("metadata_copies", "Copies of the metadata that count.", admin.Gauge, float64(m.Voters)),
		one("metadata_copies_well", "Of them, those that are there and well.", admin.Gauge, float64(m.Healthy)),
		one("metadata_copies_may_lose", "Of them, those that may be lost now while the others serve.", admin.Gauge, float64(m.MayLose)),
		one("metadata_groups_without_leader", "Groups that wait for a leader.", admin.Gauge, float64(m.Leaderless)),
		family("well", "1 while the copy is there and well.", func(s *admin.CopyState) float64 { return flag(s.Well()) }),
		family("voter", "1 if the copy counts.", func(s *admin.CopyState) float64 { return flag(s.Role == admin.CopyVoter) }),
		family("diverged", "1 while the copy differs from the others; an alarm.", func(s *admin.CopyState) float64 { return flag(s.Health == admin.CopyDiverged) }),
		family("leads", "Groups that the copy leads.", func(s *admin.CopyState) float64 { return float64(s.Leads) }),
		family("lag_entries", "Entries that the copy has not applied yet.", func(s *admin.CopyState) float64 { return float64(s.Lag) }),
		family("sync_seconds", "Time until the last writes of the copy were durable, on average.", func(s *admin.CopyState) float64 {
			return float64(s.SyncMicros) / 1e6
		}),
		family("free_bytes", "Free space of the copy's file system.", func(s *admin.CopyState) float64 { return float64(s.FreeBytes) }),
		family("used_bytes", "Space that the copy takes.", func(s *admin.CopyState) float64 { return float64(s.UsedBytes) }),
		family("receiving_bytes", "Bytes of a snapshot that have come; 0 for none.", func(s *admin.CopyState) float64 { return float64(s.Receiving) }),
	}
}

// powers renders a histogram of powers of two; unit is what one is in its
// values, and top the highest power that is shown.
func powers(name, help string, h replica.Histogram, unit float64, top int) admin.Family {
	v := admin.Value{Count: h.Count, Sum: float64(h.Sum) / unit, Buckets: make(map[float64]uint64)}
	seen := uint64(0)
	for i, n := range h.Buckets[:top] {
		seen += n
		// Bucket i holds whole numbers below 2^i.
		v.Buckets[float64(uint64(1)<<i-1)/unit] = seen
	}
	return admin.Family{Name: name, Help: help, Kind: admin.Histogram, Values: []admin.Value{v}}
}

// safetyFamilies are left out while the metadata cannot answer.
func (c *control) safetyFamilies() []admin.Family {
	s, err := c.safety(context.Background())
	if err != nil {
		c.p.Log.Warn("metrics without what may be lost", "err", err)
		return nil
	}
	return []admin.Family{
		one("drives_may_lose", "Drives that may be lost now without losing an object.", admin.Gauge, float64(s.MayLose)),
		one("short_chunks", "Chunks stored with fewer shards than they should have.", admin.Gauge, float64(s.ShortChunks)),
		one("writable", "1 while enough drives take shards.", admin.Gauge, flag(s.Writable)),
	}
}
