// Draws emoji as RGBA PNGs: <out>/flat (what the model learns), <out>/3d (the style of the example) and <out>/index.json with their names.
//   node render.js [out] [side in pixels]
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import sharp from 'sharp'

const [out = '../../build/tiny-sd/data', side = '128'] = process.argv.slice(2)
const size = Number(side)
const require = createRequire(import.meta.url)
const flat = require('@iconify-json/fluent-emoji-flat/icons.json')
const emoji = require('unicode-emoji-json/data-by-emoji.json')
const assets = join(dirname(require.resolve('@lobehub/fluent-emoji-3d/package.json')), 'assets')
const GROUPS = ['Smileys & Emotion', 'Animals & Nature', 'Food & Drink', 'Travel & Places', 'Activities', 'Objects']

/** `Smiling face with 3 hearts!` → `smiling-face-with-3-hearts`, as the flat set calls its icons. */
function keyOf(name) {
  return name
    .normalize('NFD')
    .replace(/[\u0300-\u036f’'.“”!,()]/g, '')
    .toLowerCase()
    .replace(/&/g, 'and')
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')
}

/** The 3d set calls its files by code points, with or without the variation selector. */
function picture3d(character) {
  const points = [...character].map((c) => c.codePointAt(0).toString(16).padStart(4, '0'))
  const names = [points, points.filter((point) => point !== 'fe0f')].map((parts) => join(assets, `${parts.join('-')}.webp`))
  return names.find((name) => existsSync(name))
}

for (const style of ['flat', '3d']) mkdirSync(join(out, style), { recursive: true })
const rows = []
for (const [character, { name, group }] of Object.entries(emoji)) {
  const key = keyOf(name)
  const icon = flat.icons[key]
  if (!GROUPS.includes(group) || !icon) continue
  const [width, height] = [icon.width ?? flat.width ?? 32, icon.height ?? flat.height ?? 32]
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${size}" height="${size}" viewBox="0 0 ${width} ${height}">${icon.body}</svg>`
  await sharp(Buffer.from(svg))
    .resize(size, size)
    .png()
    .toFile(join(out, 'flat', `${key}.png`))
  const file = picture3d(character)
  if (file) {
    await sharp(file)
      .resize(size, size, { fit: 'contain', background: { r: 0, g: 0, b: 0, alpha: 0 } })
      .png()
      .toFile(join(out, '3d', `${key}.png`))
  }
  rows.push({ key, name: name.toLowerCase(), group, three_d: file !== undefined })
}
writeFileSync(join(out, 'index.json'), JSON.stringify(rows))
console.log(`${rows.length} emoji, ${rows.filter((row) => row.three_d).length} of them in 3d`)
