package clients

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMC(t *testing.T) {
	t.Parallel()
	everyTarget(t, func(t *testing.T) string { return find(t, "mc") }, func(p *program) {
		p.version("--version")
		config := filepath.Join(p.home, "mc")
		if p.target.CAFile != "" {
			p.write("mc/certs/CAs/authority.pem", mustRead(p, p.target.CAFile))
		}
		p.args = []string{"--config-dir", config, "--disable-pager", "--no-color"}
		p.run("alias", "set", "r", p.target.Endpoint, p.target.AccessKey, p.target.SecretKey, "--api", "S3v4", "--path", "on")
		bucket := "r/" + p.bucket
		src := p.tree("src")
		p.run("mb", "--region", p.target.Region, bucket)
		p.wantIn(p.run("ls", "r"), p.bucket)
		p.run("stat", bucket) // asks for the whole configuration
		p.run("cp", filepath.Join(src, "small.txt"), bucket+"/small.txt")
		p.run("cp", "--attr", "color=blue", filepath.Join(src, "empty"), bucket+"/empty")
		p.wantIn(p.run("stat", bucket+"/empty"), "blue")
		var stat struct {
			Size int64
			ETag string
		}
		if err := json.Unmarshal([]byte(p.run("stat", "--json", bucket+"/small.txt")), &stat); err != nil || stat.Size != 3000 || len(stat.ETag) != 32 {
			p.t.Errorf("stat: %+v, %v", stat, err)
		}
		if got := p.run("cat", bucket+"/small.txt"); got != string(noise(3000, "small.txt")) {
			p.t.Errorf("cat: %d bytes", len(got))
		}
		p.run("cp", "--recursive", src+"/", bucket+"/tree/")
		p.wantIn(p.run("ls", "--recursive", bucket+"/tree"), "sub/dir/deep.bin", "big.bin")
		p.run("mirror", bucket+"/tree", filepath.Join(p.home, "dst"))
		p.sameTree(src, filepath.Join(p.home, "dst"))
		mcMirror(p, bucket, src)

		data := noise(40*mib, "pipe") // over mc's part size
		p.feed(data, "pipe", bucket+"/pipe")
		p.run("cp", bucket+"/pipe", filepath.Join(p.home, "pipe"))
		p.sameFile(filepath.Join(p.home, "pipe"), data)
		p.run("cp", bucket+"/pipe", bucket+"/copy") // on the server's side
		p.run("mv", bucket+"/copy", bucket+"/moved")
		share := p.run("share", "download", "--expire", "1m", "--json", bucket+"/small.txt")
		var link struct{ Share string }
		if err := json.Unmarshal([]byte(share), &link); err != nil {
			p.t.Fatalf("share: %v\n%s", err, share)
		}
		if got := p.fetch(link.Share); string(got) != string(noise(3000, "small.txt")) {
			p.t.Errorf("share: %d bytes", len(got))
		}
		p.wantIn(p.run("du", bucket), p.bucket)
		p.run("rm", bucket+"/moved")
		p.run("rm", "--recursive", "--force", bucket+"/tree")
		p.fails("rb", bucket)
		p.run("rb", "--force", bucket)
		if out := p.run("ls", "r"); strings.Contains(out, p.bucket) {
			p.t.Errorf("the bucket is there after rb:\n%s", out)
		}
	})
}

// mcMirror mirrors a tree that changes.
func mcMirror(p *program, bucket, src string) {
	p.run("mirror", src, bucket+"/mirror")
	p.write("src/small.txt", noise(3001, "changed"))
	if err := os.Remove(filepath.Join(src, "one")); err != nil {
		p.t.Fatal(err)
	}
	p.run("mirror", "--overwrite", "--remove", src, bucket+"/mirror")
	if out := p.run("diff", src, bucket+"/mirror"); out != "" {
		p.t.Errorf("diff after mirror:\n%s", out)
	}
	p.run("mirror", bucket+"/mirror", filepath.Join(p.home, "mirrored"))
	p.sameTree(src, filepath.Join(p.home, "mirrored"))
}
