package clients

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestRestic(t *testing.T) {
	t.Parallel()
	everyTarget(t, func(t *testing.T) string { return find(t, "restic") }, func(p *program) {
		p.version("version")
		p.env = append(p.env, "RESTIC_REPOSITORY=s3:"+p.target.Endpoint+"/"+p.bucket+"/backups", "RESTIC_PASSWORD=correct horse", "RESTIC_CACHE_DIR="+filepath.Join(p.home, "cache"), "RESTIC_PROGRESS_FPS=0.01")
		p.args = []string{"--pack-size", "5", "-o", "s3.region=" + p.target.Region}
		if p.target.CAFile != "" {
			p.args = append(p.args, "--cacert", p.target.CAFile)
		}
		src := p.tree("src")
		p.run("init")
		p.run("backup", src)
		first := hashes(p.t, src)
		p.run("check", "--read-data")
		p.write("src/small.txt", noise(50000, "changed"))
		p.write("src/more.bin", noise(6*mib, "more"))
		if err := os.Remove(filepath.Join(src, "big.bin")); err != nil {
			p.t.Fatal(err)
		}
		p.run("backup", src)
		if snapshots := p.run("snapshots", "--json"); strings.Count(snapshots, `"tree"`) != 2 {
			p.t.Errorf("snapshots: %s", snapshots)
		}
		dst := filepath.Join(p.home, "dst")
		p.run("restore", "latest", "--target", dst, "--verify")
		p.sameTree(src, filepath.Join(dst, src))
		// The backup of big.bin goes, and its space with it.
		p.run("forget", "--keep-last", "1", "--prune", "--max-unused", "0")
		p.run("check", "--read-data")
		again := filepath.Join(p.home, "again")
		p.run("restore", "latest", "--target", again)
		p.sameTree(src, filepath.Join(again, src))
		if len(first) == 0 {
			p.t.Error("nothing was backed up")
		}
		if out := p.fails("-o", "s3.list-objects-v1=true", "--password-command", "echo wrong", "snapshots"); !strings.Contains(out, "password") {
			p.t.Errorf("a wrong password: %s", out)
		}
		p.run("-o", "s3.list-objects-v1=true", "check")
	})
}
