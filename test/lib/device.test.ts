import assert from 'node:assert/strict'
import { test } from 'node:test'
import { availableMemory } from '../../lib/device.js'

const MEMINFO = 'MemTotal:  9 kB\nSwapTotal:       4 kB\nSwapFree:        2 kB\n'

/** What is available where these are the system's files. */
function available(files: Record<string, string>, memory: { available: number; free: number }): number {
  return availableMemory((path) => files[path] ?? '', memory)
}

test('without a limit all that is free is available, and free swap', () => {
  assert.equal(available({}, { available: 100, free: 100 }), 100)
  assert.equal(available({ '/proc/meminfo': MEMINFO }, { available: 200, free: 100 }), 100 + 2048)
})

const stat = (bytes: number) => `anon 1\nactive_file ${bytes}\ninactive_file ${bytes}\ninactive_anon 500\n`

for (const [what, files] of [
  ['cgroup 2', { '/proc/self/cgroup': '0::/a.slice/b\n', '/sys/fs/cgroup/a.slice/b/memory.stat': stat(10) }],
  ['cgroup 1', { '/proc/self/cgroup': '5:cpu,memory:/c\n4:pids:/d\n0::/e\n', '/sys/fs/cgroup/memory/c/memory.stat': stat(10) }],
] as const) {
  test(`pages cached by the own ${what} count as available, up to what is free`, () => {
    const all = { ...files, '/sys/fs/cgroup/memory.stat': stat(1000), '/sys/fs/cgroup/memory/memory.stat': stat(1000) }
    assert.equal(available(all, { available: 50, free: 1000 }), 70)
    assert.equal(available(all, { available: 50, free: 60 }), 60)
  })
}

test('where the own cgroup is not mounted, the root of what is mounted is the container', () => {
  const files = { '/proc/self/cgroup': '0::/docker/x\n', '/sys/fs/cgroup/memory.stat': stat(7), '/proc/meminfo': MEMINFO }
  assert.equal(available(files, { available: 50, free: 1000 }), 64 + 2048)
})

test('the real machine has memory', () => assert.ok(availableMemory() > 0))
