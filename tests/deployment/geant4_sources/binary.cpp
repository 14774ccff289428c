// The adapter inside the Geant4 11.4 patch 1 that geant4-pybind 0.1.3 carries: compiled against the stubs, whose classes lie in memory
// as Geant4's do, and linked by the loader to the symbols that the module exports. What it does not export is written here.
#include <cmath>
#include <cstring>
#include <new>
#include <string>

#include <G4FastSimulationManager.hh>

#include "caloforge/geant4.hpp"

class G4RegionStore {
public:
    static G4RegionStore* GetInstance();
    G4Region* GetRegion(const G4String& name, G4bool verbose) const;
};
class G4Gamma : public G4ParticleDefinition {
public:
    static G4Gamma* Definition();
};
class G4Electron : public G4ParticleDefinition {
public:
    static G4Electron* Definition();
};

namespace {

constexpr int kVersion = 1141;
constexpr size_t kManager = 712, kModels = 584, kLastParticle = 640;

G4FastSimulationManager* manager_of(G4Region* region) {
    if (G4FastSimulationManager* made = region->GetFastSimulationManager()) return made;
    return new (::operator new(kManager)) G4FastSimulationManager(region, false);
}

}  // namespace

void G4FastSimulationManager::AddFastSimulationModel(G4VFastSimulationModel* model) {
    char* self = reinterpret_cast<char*>(this);
    reinterpret_cast<std::vector<G4VFastSimulationModel*>*>(self + kModels)->push_back(model);
    std::memset(self + kLastParticle, 0, sizeof(void*));  // so that it asks again who is applicable
}

G4VFastSimulationModel::G4VFastSimulationModel(const G4String& name) : name_(name) {}
G4VFastSimulationModel::G4VFastSimulationModel(const G4String& name, G4Envelope* envelope, G4bool) : name_(name) {
    manager_of(envelope)->AddFastSimulationModel(this);
}

namespace {

std::string last_error;
std::vector<caloforge::geant4::Answer> answers;

// Looks at one track before it believes what it reads.
class Guarded : public caloforge::geant4::FastSimulation {
public:
    using FastSimulation::FastSimulation;
    G4bool ModelTrigger(const G4FastTrack& track) override {
        if (!looked_) {
            looked_ = true;
            const G4Track& t = *track.GetPrimaryTrack();
            const G4ThreeVector there = track.GetAffineTransformation()->TransformPoint(t.GetPosition());
            const G4ThreeVector back = track.GetInverseAffineTransformation()->TransformPoint(there);
            const G4Event* event = G4EventManager::GetEventManager()->GetConstCurrentEvent();
            fine_ = IsApplicable(*t.GetDynamicParticle()->GetDefinition()) && (there - track.GetPrimaryTrackLocalPosition()).mag2() < 1e-12 &&
                    (back - t.GetPosition()).mag2() < 1e-12 && std::abs(t.GetMomentumDirection().mag2() - 1) < 1e-9 &&
                    std::abs(track.GetPrimaryTrackLocalDirection().mag2() - 1) < 1e-9 && t.GetKineticEnergy() > 0 && t.GetTrackID() > 0 &&
                    event && event->GetEventID() >= 0;
            if (!fine_) last_error = "Geant4's objects do not lie in memory as those of version 11.4 patch 1; nothing is answered";
        }
        return fine_ && FastSimulation::ModelTrigger(track);
    }

private:
    bool looked_ = false, fine_ = false;
};

std::vector<Guarded*> attached;

}  // namespace

extern "C" {

struct Wanted {
    int version;
    const char *region, *model;
    uint64_t seed;
    int64_t first_event;
    double face[9];
    double max_angle, max_offset;
};

const char* error_text() { return last_error.c_str(); }

int attach(const Wanted* w) {
    if (w->version != kVersion) {
        last_error = "the adapter was laid out for Geant4 11.4 patch 1 (1141), not for version " + std::to_string(w->version);
        return 1;
    }
    if (G4Gamma::Definition()->GetPDGEncoding() != 22 || G4Electron::Definition()->GetPDGEncoding() != 11) {
        last_error = "Geant4's particles do not lie in memory as those of version 11.4 patch 1";
        return 1;
    }
    try {
        caloforge::geant4::Settings settings;
        settings.seed = w->seed;
        settings.first_event = w->first_event;
        const double* f = w->face;
        settings.faces.push_back({{f[0], f[1], f[2]}, {f[3], f[4], f[5]}, {f[6], f[7], f[8]}});
        settings.max_angle = w->max_angle;
        settings.max_offset = w->max_offset;
        attached.push_back(new Guarded(
            "caloforge", G4RegionStore::GetInstance()->GetRegion(w->region, false), std::make_shared<const caloforge::Model>(w->model),
            [](const caloforge::geant4::Answer& answer, const G4FastTrack&) { answers.push_back(answer); }, settings));
    } catch (const std::exception& error) {
        last_error = error.what();
        return 1;
    }
    return 0;
}

// By caloforge::geant4::Reason.
void counts(uint64_t* out) {
    caloforge::geant4::Report sum;
    for (const Guarded* model : attached) sum += model->report();
    for (size_t k = 0; k < caloforge::geant4::kReasons; ++k) out[k] = sum.particles[k];
}

int64_t answered() { return int64_t(answers.size()); }

struct Told {
    int64_t particle, event, track;
    uint64_t number;
    double energy, time, deposited, direction[3];
    int64_t hits;
};

void told(int64_t k, Told* out) {
    const auto& a = answers[size_t(k)];
    *out = {a.particle, a.event, a.track, a.number, a.energy, a.time, a.deposited, {a.direction.x(), a.direction.y(), a.direction.z()}, int64_t(a.hits.size())};
}

// x, y, z (mm), energy (MeV), layer, voxel of each.
void hits_of(int64_t k, double* out) {
    for (const auto& hit : answers[size_t(k)].hits) {
        const double row[6] = {hit.position.x(), hit.position.y(), hit.position.z(), hit.energy, double(hit.layer), double(hit.voxel)};
        std::memcpy(out, row, sizeof row);
        out += 6;
    }
}
}
