import assert from 'node:assert/strict'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'node:test'
import { type AdapterOptions, adapterCount, attachAdapters, parameterCount } from '../../lib/adapters/adapter.js'
import { fileTensors } from '../../lib/adapters/files.js'
import { lora } from '../../lib/adapters/lora.js'
import { readHeader } from '../../lib/files/safetensors.js'
import { ConfigReader, unetConfig } from '../../lib/models/configs.js'
import { loraPrefixes } from '../../lib/models/model.js'
import { sd1 } from '../../lib/models/sd1.js'
import { native, type Session } from '../../lib/native.js'
import { optimizers } from '../../lib/train/optimizers.js'
import { elements, type Shapes, writeSparse } from '../fixtures/sparse.js'
import { root } from './golden.js'

/** `scripts/goldens/names.py`: diffusers' module tree and kohya's naming rule. */
interface Names {
  unet: Shapes
  lora: Shapes
}

describe("LoRA of Stable Diffusion 1.5's UNet", () => {
  let names: Names
  let session: Session
  let folder: string

  before(async () => {
    names = JSON.parse(await readFile(`${root}test/fixtures/golden-names/sd15.json`, 'utf8')) as Names
    folder = await mkdtemp(join(tmpdir(), 'lorafuse-names-'))
    const path = join(folder, 'unet.safetensors')
    await writeSparse(path, names.unet)
    const { tensors } = await readHeader(path)
    // stable-diffusion-v1-5/stable-diffusion-v1-5:unet/config.json, where it is not diffusers' default.
    const config = unetConfig(new ConfigReader('config.json', { cross_attention_dim: 768, attention_head_dim: 8 }))
    const files = [{ path, tensors: tensors.map(({ name, shape, offset }) => ({ name, dtype: 'F16' as const, shape, offset })) }]
    const networks = { unet: { architecture: 'unet' as const, config, files } }
    session = new (native().Session)({ device: 'cpu', threads: 1, precision: 'f32', networks })
  })
  after(async () => {
    session?.dispose()
    await rm(folder, { recursive: true, force: true })
  })
  const attach = (targets: AdapterOptions['targets'], rank: number, convRank?: number) => {
    const options = { targets, rank, alpha: rank, convRank, convAlpha: convRank }
    return attachAdapters(session, lora, [{ network: 'unet', group: 0 }], options, optimizers.adamw.spec)
  }

  it('has the 859,520,964 parameters of the real file to stand on', () => {
    const shapes = Object.values(names.unet)
    assert.equal(
      shapes.reduce((sum, shape) => sum + elements(shape), 0),
      859_520_964,
    )
  })

  it("has kohya's 192 modules, with its names and shapes", async () => {
    const adapters = attach('default', 16)
    assert.equal(adapterCount(adapters), 192)
    const tensors = await fileTensors('kohya', adapters, session.read('weights'), 'F16', loraPrefixes(sd1, {}))
    assert.deepEqual(Object.fromEntries(tensors.map(({ name, shape }) => [name, shape])), names.lora)
  })

  it("has kohya's 278 modules with convolutions, whose kernels have their own rank", async () => {
    const adapters = attach('default', 16, 4)
    assert.equal(adapterCount(adapters), 278)
    const expected = { ...names.lora }
    for (const [name, [outputs = 0, inputs = 0, kernel = 0]] of Object.entries(names.unet)) {
      const [, path] =
        /^(.*\.(?:resnets\.\d+\.(?:conv1|conv2|time_emb_proj|conv_shortcut)|(?:down|up)samplers\.0\.conv))\.weight$/.exec(name) ?? []
      if (path === undefined) continue
      const [module, rank] = [`lora_unet_${path.replaceAll('.', '_')}`, kernel === 3 ? 4 : 16]
      const isMatrix = kernel === 0
      expected[`${module}.lora_down.weight`] = isMatrix ? [rank, inputs] : [rank, inputs, kernel, kernel]
      expected[`${module}.lora_up.weight`] = isMatrix ? [outputs, rank] : [outputs, rank, 1, 1]
      expected[`${module}.alpha`] = []
    }
    const tensors = await fileTensors('kohya', adapters, session.read('weights'), 'F16', loraPrefixes(sd1, {}))
    assert.deepEqual(Object.fromEntries(tensors.map(({ name, shape }) => [name, shape])), expected)
  })

  it('trains 544,000 parameters more per unit of rank of convolutions, and 82,880 of the rank', () => {
    assert.equal(parameterCount(attach('default', 1, 1).parameters), 423_936 + 544_000 + 82_880)
    assert.equal(parameterCount(attach('default', 1, 3).parameters), 423_936 + 3 * 544_000 + 82_880)
  })

  it('trains 423,936 parameters per unit of rank, 199,296 of them in attention', () => {
    assert.equal(parameterCount(attach('default', 1).parameters), 423_936)
    const attention = attach('attention', 1)
    assert.equal(adapterCount(attention), 128)
    assert.equal(parameterCount(attention.parameters), 199_296)
  })
})
