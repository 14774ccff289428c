// A trained model in Geant4: a fast-simulation model for the region of a calorimeter. Header only: compile it against your own
// Geant4 (10.7 or later) and link the runtime.
//
//     auto model = std::make_shared<const caloforge::Model>("photons/model");      // once, for all threads
//     // in ConstructSDandField(), that is, once in each thread:
//     caloforge::geant4::Settings settings;
//     settings.seed = run_seed;
//     new caloforge::geant4::FastSimulation("photons", region, model, hits, settings);
//
// A particle that enters through a face of the calorimeter, and is what the model was trained for, is replaced by the model's
// shower; Geant4 tracks all others, also those whose shower could not be made. Showers depend on the seed, the event's and the
// track's number and the particle alone: number 2^20 * (first_event + event) + track, as in `caloforge hybrid`.
//
// Constructors throw caloforge::Error if something makes no sense. While events are simulated nothing of this header throws.
#pragma once

#include <G4Version.hh>
#if G4VERSION_NUMBER < 1070
#error "caloforge/geant4.hpp needs Geant4 10.7 or later"
#endif

#include <G4AffineTransform.hh>
#include <G4Event.hh>
#include <G4EventManager.hh>
#include <G4FastStep.hh>
#include <G4FastTrack.hh>
#include <G4ParticleDefinition.hh>
#include <G4Region.hh>
#include <G4ThreeVector.hh>
#include <G4Track.hh>
#include <G4VFastSimulationModel.hh>
#include <G4VSolid.hh>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "runtime.hpp"

namespace caloforge::geant4 {

// A plane through which particles enter, in the frame of the envelope's solid. Local x and y are those of the model's detector;
// z, into the calorimeter, is x cross y.
struct Face {
    G4ThreeVector origin;  // where the axis of the calorimeter goes through, mm
    G4ThreeVector x{1, 0, 0}, y{0, 1, 0};
    // How far the face reaches from its origin along x and y, mm.
    double half_x = std::numeric_limits<double>::infinity(), half_y = std::numeric_limits<double>::infinity();
};

// The inner faces of a barrel about the envelope's z: local x goes around, y along z, z outwards. The first one's middle lies at
// `phi`, rad. `margin` of each face stays with Geant4 at both of its edges, mm.
inline std::vector<Face> barrel(double inner_radius, int sides, double phi = 0, double margin = 0) {
    constexpr double kTurn = 6.283185307179586;
    std::vector<Face> faces;
    for (int side = 0; side < sides; ++side) {
        const double at = phi + kTurn * side / sides, c = std::cos(at), s = std::sin(at);
        const double half = inner_radius * std::tan(kTurn / 2 / sides) - margin;
        faces.push_back({{inner_radius * c, inner_radius * s, 0}, {-s, c, 0}, {0, 0, 1}, half, std::numeric_limits<double>::infinity()});
    }
    return faces;
}

struct Settings {
    uint64_t seed = 0;                                           // of the run: give the one that Geant4 gets
    int64_t first_event = 0;                                     // number of the run's event 0: jobs of one production differ in it
    std::vector<Face> faces;                                     // none: the side of the envelope's solid with the lowest z
    double max_angle = -1;                                       // to the face's inward normal, rad; below 0: see below
    double max_offset = std::numeric_limits<double>::infinity(); // from the face's origin, mm
    double min_energy = 0;                                       // MeV; the trained range holds in any case
    double max_energy = std::numeric_limits<double>::infinity();
    int spots_per_voxel = 1;                                     // 1: in the middle of each; 2 to 64: at random places in it
    double tolerance = 1e-6;                                     // of the face, mm
};

// Without a max_angle: of models that know normal incidence only, rad; others say themselves which directions they know.
constexpr double kNormalIncidence = 0.05;

// What becomes of a particle for which Geant4 asks. Only those at a face are counted; `species` is decided before.
enum class Reason { answered, species, below, above, angle, offset, number, failed, inside };
constexpr size_t kReasons = 9;
inline const char* text_of(Reason reason) {
    static constexpr std::array<const char*, kReasons> texts{
        "answered", "species", "energy below the model's", "energy above the model's", "angle", "offset",
        "event or track cannot be numbered", "no shower could be made", "not at a face"};
    return texts[size_t(reason)];
}

struct Hit {
    G4ThreeVector position;  // in the world, mm
    double energy;           // MeV
    int layer;
    int voxel;               // -1 for points
};

// One particle and the shower in its place.
struct Answer {
    int particle;       // PDG number
    int64_t event;      // with first_event
    int track;
    uint64_t number;    // of the shower
    bool redrawn;       // after a rejected attempt
    double energy;      // kinetic, of the particle, MeV
    double time;        // global, when it entered, ns
    double deposited;   // sum of the hits, MeV
    G4ThreeVector direction;  // of the particle, in the local frame of the face
    std::vector<Hit> hits;
};

// Gets every answer; what it throws goes to Geant4 as it is.
using Sink = std::function<void(const Answer&, const G4FastTrack&)>;

// What one model, that is, one thread, has done.
struct Report {
    std::array<uint64_t, kReasons> particles{};  // by Reason
    uint64_t redrawn = 0, hits = 0;
    double energy = 0, deposited = 0;  // of what was answered, MeV

    uint64_t of(Reason reason) const { return particles[size_t(reason)]; }
    Report& operator+=(const Report& other) {
        for (size_t k = 0; k < kReasons; ++k) particles[k] += other.particles[k];
        redrawn += other.redrawn, hits += other.hits;
        energy += other.energy, deposited += other.deposited;
        return *this;
    }
};

class FastSimulation : public G4VFastSimulationModel {
public:
    // Attached to the region, which keeps a pointer: make it with new, in ConstructSDandField().
    FastSimulation(const G4String& name, G4Region* region, std::shared_ptr<const Model> model, Sink sink, Settings settings)
        : G4VFastSimulationModel(checked(name, region, model.get(), sink, settings), region),
          model_(std::move(model)), sink_(std::move(sink)), settings_(std::move(settings)) {
        prepare();
    }
    // Attached by whoever calls, with G4FastSimulationManager::AddFastSimulationModel.
    FastSimulation(const G4String& name, std::shared_ptr<const Model> model, Sink sink, Settings settings)
        : G4VFastSimulationModel(checked(name, model.get(), sink, settings)),
          model_(std::move(model)), sink_(std::move(sink)), settings_(std::move(settings)) {
        prepare();
    }

    const Report& report() const { return report_; }

    G4bool IsApplicable(const G4ParticleDefinition& particle) override {
        return particle.GetPDGEncoding() == model_->info().particle;
    }

    // Geant4 asks at every step in the region. The shower is made here and not in DoIt, because afterwards there is no way back:
    // a particle whose shower fails has to be tracked on.
    G4bool ModelTrigger(const G4FastTrack& track) override {
        ready_ = false;
        Reason reason = Reason::failed;
        try {
            reason = asked(track);
        } catch (...) {  // no memory
        }
        if (reason == Reason::failed) failed_ = {answer_.number, answer_.energy, answer_.direction};
        ++report_.particles[size_t(reason)];
        ready_ = reason == Reason::answered;
        return ready_;
    }

    void DoIt(const G4FastTrack& track, G4FastStep& step) override {
        if (!ready_) return;  // nobody asked before
        ready_ = false;
        step.KillPrimaryTrack();
        step.ProposePrimaryTrackPathLength(0.0);
        step.ProposeTotalEnergyDeposited(answer_.deposited);
        report_.redrawn += answer_.redrawn;
        report_.hits += answer_.hits.size();
        report_.energy += answer_.energy;
        report_.deposited += answer_.deposited;
        sink_(answer_, track);
    }

private:
    struct Plane {
        G4ThreeVector origin, x, y, z;
        double half_x, half_y;
    };
    static constexpr int64_t kTracks = int64_t(1) << 20, kEvents = int64_t(1) << 43;
    static constexpr uint64_t kNone = ~uint64_t(0);
    static constexpr double kRightAngle = 1.5707963267948966;

    static void need(bool fine, const char* sentence) {
        if (!fine) throw Error(CF_ARGUMENT, sentence);
    }

    // Before the base class is made, which gives the region a pointer to it.
    static const G4String& checked(const G4String& name, const Model* model, const Sink& sink, const Settings& s) {
        need(model, "a fast-simulation model needs a model");
        need(bool(sink), "a fast-simulation model needs somebody who takes its hits");
        need(s.first_event >= 0 && s.first_event < kEvents, "first_event is not from 0 to 2^43");
        need(s.max_angle <= kRightAngle, "max_angle is not up to a right angle");
        need(s.max_offset > 0, "max_offset is not above 0");
        need(s.min_energy <= s.max_energy, "min_energy is above max_energy");
        need(s.spots_per_voxel >= 1 && s.spots_per_voxel <= 64, "spots_per_voxel is not from 1 to 64");
        need(s.tolerance >= 0 && s.tolerance < 1, "tolerance is not from 0 to 1 mm");
        for (const Face& face : s.faces) {
            need(face.half_x > 0 && face.half_y > 0, "a face has no extent");
            need(std::abs(face.x.mag2() - 1) < 1e-9 && std::abs(face.y.mag2() - 1) < 1e-9 && std::abs(face.x.dot(face.y)) < 1e-9,
                 "x and y of a face are not unit vectors at a right angle");
        }
        double front = 0, back = 0;
        if (cf_layer_depth(model->get(), 0, &front, &back) != CF_SUCCESS)
            throw Error(CF_UNSUPPORTED, "the model does not know the depths of its layers, so its hits have no place");
        return name;
    }
    static const G4String& checked(const G4String& name, const G4Region* region, const Model* model, const Sink& sink,
                                   const Settings& settings) {
        need(region, "a fast-simulation model needs the region of a calorimeter");
        return checked(name, model, sink, settings);
    }

    void prepare() {
        for (const Face& face : settings_.faces) planes_.push_back({face.origin, face.x, face.y, face.x.cross(face.y), face.half_x, face.half_y});
        const bool any = model_->info().any_direction;
        least_cosine_ = settings_.max_angle >= 0 ? std::cos(settings_.max_angle) : any ? 0.0 : std::cos(kNormalIncidence);
        if (!model_->info().points) deposits_.resize(size_t(model_->info().voxels));
    }

    // The face that a particle is on and flies into; null inside.
    const Plane* plane_of(const G4FastTrack& track, const G4ThreeVector& position, const G4ThreeVector& direction) {
        if (settings_.faces.empty()) {
            const G4VSolid* solid = track.GetEnvelopeSolid();
            if (solid != solid_) {
                G4ThreeVector low, high;
                solid->BoundingLimits(low, high);
                const double all = std::numeric_limits<double>::infinity();
                planes_.assign(1, {G4ThreeVector(0, 0, low.z()), {1, 0, 0}, {0, 1, 0}, {0, 0, 1}, all, all});
                solid_ = solid;
            }
        }
        for (const Plane& plane : planes_) {
            const G4ThreeVector there = position - plane.origin;
            if (std::abs(there.dot(plane.z)) <= settings_.tolerance && std::abs(there.dot(plane.x)) <= plane.half_x &&
                std::abs(there.dot(plane.y)) <= plane.half_y && direction.dot(plane.z) > 0)
                return &plane;
        }
        return nullptr;
    }

    Reason asked(const G4FastTrack& fast) {
        const G4Track& track = *fast.GetPrimaryTrack();
        const G4ThreeVector position = fast.GetPrimaryTrackLocalPosition(), along = fast.GetPrimaryTrackLocalDirection();
        const Plane* plane = plane_of(fast, position, along);
        if (!plane) return Reason::inside;

        const cf_info& info = model_->info();
        Answer& a = answer_;
        a.number = kNone;
        a.energy = track.GetKineticEnergy();
        if (!(a.energy >= std::max(info.energy[0], settings_.min_energy))) return Reason::below;
        if (!(a.energy <= std::min(info.energy[1], settings_.max_energy))) return Reason::above;
        a.direction = {along.dot(plane->x), along.dot(plane->y), along.dot(plane->z)};
        if (!(a.direction.z() >= least_cosine_)) return Reason::angle;
        const G4ThreeVector beside = position - plane->origin;
        if (!(std::hypot(beside.dot(plane->x), beside.dot(plane->y)) <= settings_.max_offset)) return Reason::offset;

        const G4Event* event = G4EventManager::GetEventManager()->GetConstCurrentEvent();
        a.track = track.GetTrackID();
        if (!event || event->GetEventID() < 0 || a.track < 0 || a.track >= kTracks) return Reason::number;
        a.event = settings_.first_event + event->GetEventID();
        if (a.event >= kEvents) return Reason::number;
        a.number = uint64_t(a.event * kTracks + a.track);
        // It would fail again: a step of length 0 can leave a particle at the face.
        if (a.number == failed_.number && a.energy == failed_.energy && a.direction == failed_.direction) return Reason::failed;

        a.particle = info.particle;
        a.time = track.GetGlobalTime();
        const G4ThreeVector asked_for = info.any_direction ? a.direction : G4ThreeVector(0, 0, 1);
        const cf_particle particle{a.energy, {asked_for.x(), asked_for.y(), asked_for.z()}, info.particle, 0};
        uint8_t status = CF_FAILED;
        const int64_t spots = info.points ? points(particle, status) : voxels(particle, status);
        if (status == CF_OUTSIDE && info.any_direction) return Reason::angle;
        if (spots < 0 || (status != CF_OK && status != CF_REDRAWN)) return Reason::failed;
        a.redrawn = status == CF_REDRAWN;

        // Showers of a model of normal incidence are made about the normal, and inclined here.
        const double sx = info.any_direction ? 0 : a.direction.x() / a.direction.z();
        const double sy = info.any_direction ? 0 : a.direction.y() / a.direction.z();
        const G4AffineTransform& to_world = *fast.GetInverseAffineTransformation();
        a.hits.clear();
        a.deposited = 0;
        for (int64_t k = 0; k < spots; ++k) {
            const cf_spot& spot = spots_[size_t(k)];
            const G4ThreeVector local = position + (spot.x + sx * spot.z) * plane->x + (spot.y + sy * spot.z) * plane->y + spot.z * plane->z;
            a.hits.push_back({to_world.TransformPoint(local), spot.energy, spot.layer, spot.voxel});
            a.deposited += spot.energy;
        }
        return std::isfinite(a.deposited) ? Reason::answered : Reason::failed;
    }

    // Spots of a shower into spots_, and their number; below 0 if it could not be made.
    int64_t voxels(const cf_particle& particle, uint8_t& status) {
        const uint64_t number = answer_.number;
        if (cf_generate(model_->get(), 1, &particle, settings_.seed, &number, 0, deposits_.data(), &status) != CF_SUCCESS) return -1;
        size_t lit = 0;
        for (float deposit : deposits_) lit += deposit > 0;
        spots_.resize(lit * size_t(settings_.spots_per_voxel));
        int64_t offsets[2] = {0, 0};
        const cf_error error = cf_place(model_->get(), 1, deposits_.data(), settings_.spots_per_voxel, settings_.seed, &number,
                                        int64_t(spots_.size()), spots_.data(), offsets);
        return error == CF_SUCCESS ? offsets[1] : -1;
    }

    int64_t points(const cf_particle& particle, uint8_t& status) {
        const uint64_t number = answer_.number;
        int64_t most = 0, offsets[2] = {0, 0};
        if (cf_most_points(model_->get(), &particle, &most) != CF_SUCCESS || most < 0) return -1;
        if (points_.size() < size_t(4 * most)) points_.resize(size_t(4 * most));
        if (cf_generate_points(model_->get(), 1, &particle, settings_.seed, &number, 0, most, points_.data(), offsets, &status) != CF_SUCCESS)
            return -1;
        spots_.resize(size_t(offsets[1]));
        return cf_place_points(model_->get(), offsets[1], points_.data(), spots_.data()) == CF_SUCCESS ? offsets[1] : -1;
    }

    const std::shared_ptr<const Model> model_;
    const Sink sink_;
    const Settings settings_;
    double least_cosine_ = 1;
    std::vector<Plane> planes_;
    const G4VSolid* solid_ = nullptr;
    std::vector<float> deposits_, points_;
    std::vector<cf_spot> spots_;
    Answer answer_{};
    bool ready_ = false;
    struct {
        uint64_t number;
        double energy;
        G4ThreeVector direction;
    } failed_{kNone, 0, {}};
    Report report_;
};

}  // namespace caloforge::geant4
