/* CaloForge runtime: showers from a trained model, for hosts written in C or C++. No dependency beyond the standard library.
 *
 * Every function may be called from any number of threads on one model; there is no global state. Nothing is thrown: functions
 * return a cf_error. Energies are MeV (kinetic), lengths mm. The local frame has its origin where the particle enters the
 * calorimeter, and z into it. Random numbers are those of `caloforge generate`: they are addressed by (seed, shower number), so a
 * shower depends on nothing else, and batches may be cut at will. */
#ifndef CALOFORGE_RUNTIME_H
#define CALOFORGE_RUNTIME_H

#include <stddef.h>
#include <stdint.h>

#define CALOFORGE_ABI 1 /* of this header; compare with cf_abi() */

#if defined(_WIN32)
#define CF_API
#else
#define CF_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct cf_model cf_model;

typedef enum cf_error {
    CF_SUCCESS = 0,
    CF_NO_FILE = 1,     /* a file of the model is missing or cannot be read */
    CF_DAMAGED = 2,     /* a file is not what was exported: truncated, changed, inconsistent */
    CF_VERSION = 3,     /* exported for another version of this library */
    CF_UNSUPPORTED = 4, /* the model cannot do this (voxels of a point cloud, places without depths ...) */
    CF_ARGUMENT = 5,    /* a null pointer, a negative number, an impossible value */
    CF_MEMORY = 6,      /* out of memory */
    CF_SPACE = 7,       /* the caller's buffer is too small; the size that is needed was returned */
    CF_PROCESSOR = 8,   /* this library was compiled for a processor with more instructions */
    CF_INTERNAL = 9
} cf_error;

/* What became of a shower. */
typedef enum cf_status {
    CF_OK = 0,
    CF_REDRAWN = 1, /* fine, after at least one rejected attempt */
    CF_OUTSIDE = 2, /* empty: outside the range that the model was trained for; let Geant4 track this particle */
    CF_FAILED = 3   /* empty: rejected too often */
} cf_status;

typedef struct cf_particle {
    double energy;       /* kinetic, MeV */
    double direction[3]; /* unit vector in the local frame; 0, 0, 1 for a model that knows normal incidence only */
    int32_t pdg;
    int32_t reserved;    /* 0 */
} cf_particle;

typedef struct cf_info {
    int32_t points;           /* 1 for a model of points, 0 for one of voxels */
    int32_t layers;
    int64_t voxels;           /* of all layers; 0 for points */
    int32_t particle;         /* PDG number */
    int32_t any_direction;    /* 0: along z only */
    double energy[2];         /* trained range, MeV */
    double direction[2][3];   /* lowest and highest components of trained directions */
    char kind[32];
    char weights[65];         /* SHA-256 of the weights of the model that was exported, as model.json has it */
    char reserved[31];
} cf_info;

/* An energy at a place in the local frame. */
typedef struct cf_spot {
    double x, y, z; /* mm */
    double energy;  /* MeV */
    int32_t layer;
    int32_t voxel;  /* -1 for points */
} cf_spot;

/* Flags of cf_generate and cf_generate_points. */
#define CF_EXTRAPOLATE 1u /* make showers outside the trained range too */

CF_API int32_t cf_abi(void);
CF_API const char* cf_error_text(cf_error error);

/* Open an exported model. `message` (may be null) gets a sentence of at most `size` characters if something is wrong. */
CF_API cf_error cf_open(const char* directory, cf_model** model, char* message, size_t size);
CF_API void cf_close(cf_model* model);
CF_API cf_error cf_get_info(const cf_model* model, cf_info* info);

/* Start and end of a layer along z, mm. CF_UNSUPPORTED if the model does not know. */
CF_API cf_error cf_layer_depth(const cf_model* model, int32_t layer, double* front, double* back);

/* Voxels: deposits has room for n * voxels numbers, MeV, layer behind layer; status for n. showers are their numbers. */
CF_API cf_error cf_generate(const cf_model* model, int64_t n, const cf_particle* particles, uint64_t seed,
                            const uint64_t* showers, uint32_t flags, float* deposits, uint8_t* status);

/* Points: x, y (mm), layer, energy (MeV) each; points has room for `capacity` of them, offsets for n + 1 numbers. With too little
 * room CF_SPACE is returned, offsets[n] is what is needed, and points is not complete. */
CF_API cf_error cf_generate_points(const cf_model* model, int64_t n, const cf_particle* particles, uint64_t seed,
                                   const uint64_t* showers, uint32_t flags, int64_t capacity, float* points, int64_t* offsets,
                                   uint8_t* status);

/* Most points that a shower of this particle can have: a capacity that is always enough. */
CF_API cf_error cf_most_points(const cf_model* model, const cf_particle* particle, int64_t* most);

/* Deposits of n showers as spots: one in the middle of each lit voxel, or `per_voxel` (2 to 64) at places drawn uniformly in it.
 * The energies of a voxel's spots add up to its deposit exactly, in double. offsets and CF_SPACE as above. */
CF_API cf_error cf_place(const cf_model* model, int64_t n, const float* deposits, int32_t per_voxel, uint64_t seed,
                         const uint64_t* showers, int64_t capacity, cf_spot* spots, int64_t* offsets);

/* Points as spots in the middle of their layers. */
CF_API cf_error cf_place_points(const cf_model* model, int64_t count, const float* points, cf_spot* spots);

/* The two halves of generating, for hosts with random numbers of their own and for tests of parity. A shower has as many standard
 * normal numbers as cf_latent_size says, one shower behind the other; attempts (may be null for 0) count rejections. The kinds
 * gflash, pca-parametrisation and shower-library take uniform numbers, too: doubles, each in the room of two floats. So does, as
 * its last one, any model with the aid rejection: it says whether the shower is valid. */
CF_API cf_error cf_latent_size(const cf_model* model, const cf_particle* particle, int64_t* size);
CF_API cf_error cf_latents(const cf_model* model, int64_t n, const cf_particle* particles, uint64_t seed,
                           const uint64_t* showers, const uint64_t* attempts, float* latents);
CF_API cf_error cf_decode(const cf_model* model, int64_t n, const cf_particle* particles, const float* latents,
                          float* deposits, uint8_t* valid);
CF_API cf_error cf_decode_points(const cf_model* model, int64_t n, const cf_particle* particles, const float* latents,
                                 int64_t capacity, float* points, int64_t* offsets, uint8_t* valid);

#ifdef __cplusplus
}
#endif

#endif
