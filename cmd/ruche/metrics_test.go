package main

import (
	"strings"
	"testing"
)

// TestMetricsOfARunningServer names the metrics that operators watch: they are
// part of the interface.
func TestMetricsOfARunningServer(t *testing.T) {
	t.Parallel()
	s := start(t, t.TempDir(), options{args: []string{"--default-buckets", "media"}})
	s.want(200, "PUT", "/media/object", strings.Repeat("x", 200_000))
	s.want(200, "GET", "/media/object", "")
	s.want(404, "GET", "/media/missing", "")
	text := get(t, s.endpoints().Admin[0]+"/metrics")
	for _, want := range []string{
		`ruche_s3_requests_total{code="200",operation="PutObject"} 1`,
		`ruche_s3_requests_total{code="404",operation="GetObject"} 1`,
		`ruche_s3_errors_total{error="NoSuchKey",operation="GetObject"} 1`,
		`ruche_s3_request_duration_seconds_bucket{operation="GetObject",le="+Inf"} 2`,
		`ruche_s3_received_bytes_total{operation="PutObject"} 200000`,
		`ruche_s3_sent_bytes_total{operation="GetObject"} `,
		`ruche_drives_open 6`, `ruche_drives_away 0`, `ruche_drives_may_lose 2`, `ruche_writable 1`, `ruche_short_chunks 0`,
		`path="` + s.dir + `/d1",state="online"} 1`, `ruche_drive_free_bytes{`, `ruche_drive_scrub_age_seconds{`, `ruche_drive_queue_records{`,
		`ruche_pool_limit_bytes{pool="write"}`, `ruche_pool_used_bytes{pool="read"} 0`, `ruche_node_buffer_bytes `,
		`ruche_repair_queue_chunks 0`, `ruche_repair_unrepairable_chunks 0`, `ruche_rebuild_drives 0`, `ruche_collect_off 0`,
		`ruche_metadata_commit_seconds_count `, `ruche_metadata_batch_commands_bucket{le="1"}`, `ruche_metadata_failed 0`, `ruche_metadata_queue 0`,
		`ruche_metadata_copies 1`, `ruche_metadata_copies_may_lose 0`, `ruche_metadata_copy_well{path="` + s.dir + `/metadata",replica=`, `ruche_metadata_copy_leads{`,
		`process_open_fds `, `go_goroutines `,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing", want)
		}
	}
	if t.Failed() {
		t.Log(text)
	}
}
