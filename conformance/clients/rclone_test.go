package clients

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRclone(t *testing.T) {
	t.Parallel()
	everyTarget(t, func(t *testing.T) string { return find(t, "rclone") }, func(p *program) {
		p.version("version")
		p.env = append(p.env,
			"RCLONE_CONFIG="+filepath.Join(p.home, "rclone.conf"), "RCLONE_CONFIG_R_TYPE=s3", "RCLONE_CONFIG_R_PROVIDER=Other",
			"RCLONE_CONFIG_R_ACCESS_KEY_ID="+p.target.AccessKey, "RCLONE_CONFIG_R_SECRET_ACCESS_KEY="+p.target.SecretKey,
			"RCLONE_CONFIG_R_ENDPOINT="+p.target.Endpoint, "RCLONE_CONFIG_R_REGION="+p.target.Region,
			"RCLONE_CONFIG_R_LOCATION_CONSTRAINT="+p.target.Region)
		p.args = []string{"--retries", "1", "--low-level-retries", "1", "--s3-upload-cutoff", "6M", "--s3-chunk-size", "5M"}
		if p.target.CAFile != "" {
			p.args = append(p.args, "--ca-cert", p.target.CAFile)
		}
		rcloneFiles(p)
		rcloneTimes(p)
		p.run("purge", "r:"+p.bucket)
		if out := p.run("lsd", "r:"); strings.Contains(out, p.bucket) {
			p.t.Errorf("the bucket is there after purge:\n%s", out)
		}
	})
}

// rcloneFiles copies, checks and synchronizes a tree.
func rcloneFiles(p *program) {
	remote := "r:" + p.bucket + "/tree"
	p.run("mkdir", "r:"+p.bucket)
	p.wantIn(p.run("lsd", "r:"), p.bucket)
	src := p.tree("src")
	p.run("copy", src, remote)
	p.run("check", src, remote)               // by hash, as far as the server gives one
	p.run("check", "--download", src, remote) // by content
	p.run("copy", remote, filepath.Join(p.home, "dst"))
	p.sameTree(src, filepath.Join(p.home, "dst"))

	// A sync that changes, adds and removes.
	p.write("src/small.txt", noise(3000, "changed"))
	p.write("src/new/file", noise(70000, "new"))
	if err := os.Remove(filepath.Join(src, "one")); err != nil {
		p.t.Fatal(err)
	}
	p.run("sync", src, remote)
	p.run("check", "--download", src, remote)
	p.run("sync", remote, filepath.Join(p.home, "dst"))
	p.sameTree(src, filepath.Join(p.home, "dst"))

	p.run("copy", remote, "r:"+p.bucket+"/copied", "--s3-copy-cutoff", "6M") // on the server's side, big ones in parts
	p.run("check", "--download", src, "r:"+p.bucket+"/copied")
	data := noise(12*mib, "rcat")
	p.feed(data, "rcat", "r:"+p.bucket+"/rcat") // unknown length
	if got := p.run("cat", "r:"+p.bucket+"/rcat"); got != string(data) {
		p.t.Errorf("rcat: %d bytes came back of %d, or others", len(got), len(data))
	}
	if got := p.run("cat", "--offset", "5242870", "--count", "20", "r:"+p.bucket+"/rcat"); got != string(data[5242870:5242890]) {
		p.t.Errorf("range: %d bytes", len(got))
	}
	p.run("moveto", "r:"+p.bucket+"/rcat", "r:"+p.bucket+"/moved")
	p.wantIn(p.run("lsf", "r:"+p.bucket), "moved", "tree/")
	if got := p.fetch(p.run("link", "--expire", "1m", "r:"+p.bucket+"/moved")); string(got) != string(data) {
		p.t.Errorf("link: %d bytes", len(got))
	}
	p.run("deletefile", "r:"+p.bucket+"/moved")
	p.wantIn(p.run("size", remote), "Total objects: 8")
	p.run("cleanup", "r:"+p.bucket) // lists multipart uploads
}

// rcloneTimes changes a file's time alone, which copies the object onto itself
// with new metadata.
func rcloneTimes(p *program) {
	file := p.write("times/file", noise(40000, "times"))
	stamp := time.Date(2001, 2, 3, 4, 5, 6, 789000000, time.UTC)
	for range 2 {
		if err := os.Chtimes(file, stamp, stamp); err != nil {
			p.t.Fatal(err)
		}
		p.run("sync", filepath.Dir(file), "r:"+p.bucket+"/times")
		p.wantIn(p.run("lsjson", "r:"+p.bucket+"/times"), stamp.Format("2006-01-02T15:04:05.000"))
		stamp = stamp.AddDate(1, 0, 0)
	}
	p.run("check", "--download", filepath.Dir(file), "r:"+p.bucket+"/times")
}
