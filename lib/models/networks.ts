/** What networks models consist of. */
import type { Network } from '../native.js'

/** By the names of diffusers' folders: each network's architecture and title, and the folder of the tokenizer that makes its ids. */
export const NETWORKS: Record<string, { architecture: Network['architecture']; title: string; tokenizer?: string }> = {
  unet: { architecture: 'unet', title: 'the UNet' },
  text_encoder: { architecture: 'clip', title: 'the text encoder', tokenizer: 'tokenizer' },
  text_encoder_2: { architecture: 'clip', title: 'the second text encoder', tokenizer: 'tokenizer_2' },
  vae: { architecture: 'vae', title: 'the VAE' },
}
