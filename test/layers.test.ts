import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** The rooms of each floor that docs/architecture.md draws, the lowest first: the words before the first wide gap of a line. */
function floors(tree: string): string[][] {
  const page = readFileSync(join(root, 'docs/architecture.md'), 'utf8')
  const [, drawing] = new RegExp(`^\`\`\`floors ${tree}\\n([^\`]*)\`\`\`$`, 'm').exec(page) ?? []
  assert.ok(drawing, `docs/architecture.md draws no floors of ${tree}`)
  const lines = drawing.trimEnd().split('\n')
  return lines.map((line) => line.split(/ {2,}/)[0]!.split(' ')).reverse()
}

/** The files of a tree, as paths from the root. */
function files(tree: string): string[] {
  return readdirSync(join(root, tree), { recursive: true, encoding: 'utf8' })
    .map((name) => join(tree, name))
    .filter((path) => /\.(ts|cc|h|cu|cuh)$/.test(path))
}

/** The files that a file names in imports and includes, as paths from the root. */
function named(path: string): string[] {
  const text = readFileSync(join(root, path), 'utf8')
  const pattern = path.endsWith('.ts') ? /(?:\bfrom|\bimport\(|^import)\s*'(\.[^']+)'/gm : /^\s*#\s*include "([^"]+)"/gm
  return Array.from(text.matchAll(pattern), ([, to]) => normalize(join(dirname(path), to!)))
}

/** `lib/data/images.ts` → `data`, `lib/native.ts` → `native`. */
const room = (path: string) => path.split('/')[1]!.replace(/\.\w+$/, '')

for (const tree of ['native', 'lib']) {
  test(`rooms of ${tree} use only rooms on lower floors, as docs/architecture.md draws them`, () => {
    const floor = new Map(floors(tree).flatMap((rooms, height) => rooms.map((name) => [name, height] as const)))
    const found = files(tree)
    assert.deepEqual([...new Set(found.map(room))].sort(), [...floor.keys()].sort(), 'the drawing has other rooms')
    let arrows = 0
    for (const from of found) {
      for (const to of named(from)) {
        assert.equal(to.split('/')[0], tree, `${from} uses ${to}, outside ${tree}`)
        if (room(from) === room(to)) continue
        arrows += 1
        assert.ok(floor.get(room(to))! < floor.get(room(from))!, `${from} uses ${to}, which is on no lower floor`)
      }
    }
    assert.ok(arrows > 20, `only ${arrows} arrows were read`)
  })

  test(`files of ${tree} form no circle`, () => {
    const done = new Set<string>()
    const visit = (path: string, above: string[]) => {
      assert.ok(!above.includes(path), [...above, path].join(' → '))
      if (done.has(path)) return
      done.add(path)
      for (const to of named(path)) visit(to.replace(/\.js$/, '.ts'), [...above, path])
    }
    for (const path of files(tree)) visit(path, [])
  })
}
