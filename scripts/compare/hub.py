"""Uses the cache of the Hub as diffusers and transformers do. Called by hub.js: FETCH, or READ a snapshot without the network."""
import json
import sys

from huggingface_hub import hf_hub_download, scan_cache_dir, snapshot_download

command, name, file = sys.argv[1:]
offline = command == "read"
folder = snapshot_download(name, local_files_only=offline)
path = hf_hub_download(name, file, local_files_only=offline)
found = scan_cache_dir()
(repository,) = found.repos
(revision,) = repository.revisions
report = {
    "folder": folder,
    "path": path,
    "warnings": [str(warning) for warning in found.warnings],
    "incomplete": len(found.incomplete_files),
    "refs": sorted(revision.refs),
    "commit": revision.commit_hash,
    "files": sorted(str(entry.file_path)[len(folder) + 1 :] for entry in revision.files),
}
print(json.dumps(report))
