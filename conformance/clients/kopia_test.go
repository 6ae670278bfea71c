package clients

import (
	"os"
	"path/filepath"
	"testing"
)

func TestKopia(t *testing.T) {
	t.Parallel()
	everyTarget(t, func(t *testing.T) string { return find(t, "kopia") }, func(p *program) {
		p.version("--version")
		makeBucket(p)
		p.env = append(p.env, "KOPIA_PASSWORD=correct horse", "KOPIA_CHECK_FOR_UPDATES=false", "KOPIA_CACHE_DIRECTORY="+filepath.Join(p.home, "cache"),
			"KOPIA_LOG_DIR="+filepath.Join(p.home, "log"), "KOPIA_CONFIG_PATH="+filepath.Join(p.home, "repository.config"), "KOPIA_PERSIST_CREDENTIALS_ON_CONNECT=true", "KOPIA_USE_KEYRING=false")
		p.args = []string{"--no-progress"}
		where := []string{
			"s3", "--bucket", p.bucket, "--prefix", "kopia/", "--endpoint", p.target.Host(), "--region", p.target.Region,
			"--access-key", p.target.AccessKey, "--secret-access-key", p.target.SecretKey,
		}
		if p.target.Secure() {
			where = append(where, "--root-ca-pem-path", p.target.CAFile)
		} else {
			where = append(where, "--disable-tls")
		}
		src := p.tree("src")
		p.run(append([]string{"repository", "create"}, where...)...)
		p.run("snapshot", "create", src)
		p.write("src/small.txt", noise(50000, "changed"))
		if err := os.Remove(filepath.Join(src, "one")); err != nil {
			p.t.Fatal(err)
		}
		p.run("snapshot", "create", src)
		p.run("snapshot", "verify", "--verify-files-percent=100", "--file-parallelism=2")
		p.run("content", "verify", "--full")
		p.run("repository", "disconnect")
		p.run(append([]string{"repository", "connect"}, where...)...)
		dst := filepath.Join(p.home, "dst")
		p.run("restore", src, dst, "--snapshot-time=latest")
		p.sameTree(src, dst)
		p.run("maintenance", "run", "--full", "--safety=none")
		p.run("snapshot", "verify", "--verify-files-percent=100", "--file-parallelism=2")
		removeBucket(p)
	})
}
